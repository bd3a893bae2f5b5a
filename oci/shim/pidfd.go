package shim

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"berth/oci/procfs"
)

// awaitEnd returns nil when a child that was not waited for has ended (it is a zombie then).
func awaitEnd(pid int) error {
	pidfd, err := openPidfd(pid)
	if err != nil {
		return err
	}
	defer pidfd.Close()
	return procfs.AwaitEnd(context.Background(), pidfd)
}

func openPidfd(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("pidfd of %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}
