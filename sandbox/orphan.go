package sandbox

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/cgroup"
	"berth/oci/procfs"
)

// killPID is signalPID of SIGKILL, and waits for the end of the process.
func killPID(pid int, start uint64) error { return signalPID(pid, start, unix.SIGKILL, killTimeout) }

// signalPID sends a signal to a process that is told from a later one of the same number by
// its start time (field 22 of /proc/PID/stat), and waits for its end for at most that time. 0
// or a process that is gone is fine.
func signalPID(pid int, start uint64, sig unix.Signal, wait time.Duration) error {
	if pid <= 1 {
		return nil
	}
	fd, err := procfs.Pidfd(pid, start, 0)
	if errors.Is(err, procfs.ErrEnded) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("send %v: %w", sig, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %v to process %d: %w", sig, pid, err)
	}
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(wait/time.Millisecond))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for process %d: %w", pid, err)
	}
	return nil
}

// killTimeout bounds the wait for the processes of a cgroup to die of SIGKILL.
const killTimeout = 10 * time.Second

// killCgroup kills every process of a cgroup and of those below it, and waits for
// their end: what comes after unmounts their files and removes the cgroup. The
// caller has no shim to ask, and no pid it could trust.
func killCgroup(paths map[string]string) error {
	dir := paths[""]
	for _, p := range paths { // without v2 each hierarchy lists the same processes
		if dir == "" {
			dir = p
		}
	}
	if dir == "" {
		return nil
	}
	if err := cgroup.Kill(dir, killTimeout, nil); err != nil {
		return failed(ErrTimeout, "%w", err)
	}
	return nil
}

// removeEmptied removes the cgroups of processes that have ended.
func removeEmptied(paths map[string]string) error {
	var errs []error
	for _, dir := range paths {
		errs = append(errs, cgroup.RemoveEmptied(dir, killTimeout))
	}
	return errors.Join(errs...)
}
