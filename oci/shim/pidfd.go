package shim

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// awaitEnd returns when a child that was not waited for has ended (it is a zombie then). It
// sleeps in Go's poller: os.Process.Wait would keep a thread, some 20 KiB, for every
// process.
func awaitEnd(pid int) error {
	f, err := openPidfd(pid)
	if err != nil {
		return err
	}
	defer f.Close()
	return awaitPidfd(f)
}

func openPidfd(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("pidfd of %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// awaitPidfd returns when the process has ended, or when the pidfd is closed.
func awaitPidfd(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool { return hasEnded(int(fd)) })
}

func hasEnded(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// comm is the name of a process, also of a zombie; "": there is no such process.
func comm(pid int) string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return ""
	}
	return string(bytes.TrimSuffix(data, []byte("\n")))
}
