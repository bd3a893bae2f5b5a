package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// PIDs lists the processes of the cgroup at dir and of those below it.
func PIDs(dir string) []int {
	var all []int
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if !d.IsDir() {
			return nil
		}
		data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil // removed meanwhile, or a threaded cgroup whose processes the parent lists
		}
		for field := range bytes.FieldsSeq(data) {
			// 0 stands for a process of a PID namespace that is not visible here.
			if pid, err := strconv.Atoi(string(field)); err == nil && pid > 0 && pid != os.Getpid() {
				all = append(all, pid)
			}
		}
		return nil
	})
	return all
}

// Member is a process of a cgroup.
type Member struct {
	PID int
	fd  int // pidfd
}

// Members are held by pidfd until Close.
type Members []Member

// Open opens the processes of the cgroup at dir and of those below it.
func Open(dir string) Members {
	var held Members
	for _, pid := range PIDs(dir) {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			held = append(held, Member{pid, fd})
		}
	}
	still := PIDs(dir)
	return slices.DeleteFunc(held, func(m Member) bool {
		if slices.Contains(still, m.PID) {
			return false
		}
		_ = unix.Close(m.fd) // nothing is buffered
		return true
	})
}

// Close closes the pidfds.
func (all Members) Close() {
	for _, m := range all {
		_ = unix.Close(m.fd) // nothing is buffered
	}
}

// Exists reports whether the process has not been reaped: until then no other process
// can have its PID.
func (m Member) Exists() bool { return unix.PidfdSendSignal(m.fd, 0, nil, 0) == nil }

// await returns when all have ended, or at the deadline.
func (all Members) await(deadline time.Time) {
	for _, m := range all {
		fds := []unix.PollFd{{Fd: int32(m.fd), Events: unix.POLLIN}}
		for {
			left := time.Until(deadline)
			if left <= 0 {
				return
			}
			if _, err := unix.Poll(fds, int(left/time.Millisecond)+1); !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
}

// Signal sends sig once to every process of the cgroup at dir and of those below it.
func Signal(dir string, sig unix.Signal) error {
	var failed error
	all := Open(dir)
	defer all.Close()
	for _, m := range all {
		if err := unix.PidfdSendSignal(m.fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			failed = errors.Join(failed, fmt.Errorf("signal %d to %d: %w", sig, m.PID, err))
		}
	}
	return failed
}

// Kill kills every process of the cgroup at dir, and of those below it, until there is
// none. It tries for at most the time given; its only error names the processes that
// still live then. A process that forks is found again in the next round. killed, which
// may be nil, is called after each round, for example to thaw the cgroup. An empty dir
// means that there is no cgroup.
func Kill(dir string, within time.Duration, killed func()) error {
	if dir == "" {
		return nil
	}
	deadline := time.Now().Add(within)
	for {
		if len(PIDs(dir)) == 0 {
			return nil
		}
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) // v2, Linux 5.14; the rounds do without
		all := Open(dir)
		for _, m := range all {
			_ = unix.PidfdSendSignal(m.fd, unix.SIGKILL, nil, 0) // an error: it has ended
		}
		if killed != nil {
			killed()
		}
		all.await(deadline)
		all.Close()
		if time.Now().After(deadline) {
			if left := PIDs(dir); len(left) > 0 {
				return fmt.Errorf("processes %v of cgroup %s did not end within %v of SIGKILL, see /proc/PID/stack", left, dir, within)
			}
			return nil
		}
	}
}
