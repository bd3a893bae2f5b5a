package cgroup

import (
	"bytes"
	"cmp"
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

// PIDs lists the processes of the cgroup at dir and of those below it, none of a cgroup that
// does not exist. With an error, such as want of descriptors, the list is not whole.
func PIDs(dir string) ([]int, error) {
	var all []int
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return unlessGone(err)
		}
		if !d.IsDir() {
			return nil
		}
		data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return unlessGone(err)
		}
		for field := range bytes.FieldsSeq(data) {
			// 0 stands for a process of a PID namespace that is not visible here.
			if pid, err := strconv.Atoi(string(field)); err == nil && pid > 0 && pid != os.Getpid() {
				all = append(all, pid)
			}
		}
		return nil
	})
	if err != nil {
		return all, fmt.Errorf("processes of cgroup %s: %w", dir, err)
	}
	return all, nil
}

// unlessGone is err, and nil when the cgroup was removed meanwhile, or is a threaded one, whose
// processes the cgroup above it lists.
func unlessGone(err error) error {
	for _, gone := range []error{fs.ErrNotExist, unix.ENODEV, unix.EOPNOTSUPP} {
		if errors.Is(err, gone) {
			return nil
		}
	}
	return err
}

// Member is a process of a cgroup. No other process has its PID while the function runs that
// it was passed to.
type Member struct {
	PID int
	fd  int // pidfd
}

// heldTogether bounds the descriptors of one call: a container may have more processes than
// its shim, or berthd, may open files.
const heldTogether = 64

// Each calls f for every process of the cgroup at dir and of those below it. It goes on after
// an error, and returns the first.
func Each(dir string, f func(Member) error) error {
	pids, err := PIDs(dir)
	return cmp.Or(err, each(dir, pids, f))
}

// each is Each for those of the processes that are in the cgroup.
func each(dir string, pids []int, f func(Member) error) (first error) {
	note := func(err error) {
		if first == nil {
			first = err
		}
	}
	for some := range slices.Chunk(pids, heldTogether) {
		note(withMembers(dir, some, func(held []Member) {
			for _, m := range held {
				note(f(m))
			}
		}))
	}
	return first
}

// withMembers calls f with those of the processes that are in the cgroup, and holds them
// meanwhile. Where descriptors run out it holds fewer.
func withMembers(dir string, pids []int, f func([]Member)) error {
	var held []Member
	defer func() { closeAll(held) }()
	spare, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0) // keeps a descriptor for the list
	if err != nil {
		return unlessGone(err)
	}
	var short error
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err == nil {
			held = append(held, Member{pid, fd})
			continue
		}
		if !errors.Is(err, unix.ESRCH) { // or it has ended
			short = fmt.Errorf("pidfd of process %d: %w", pid, err)
			break
		}
	}
	_ = unix.Close(spare) // nothing is buffered
	still, err := PIDs(dir)
	if err != nil {
		return err
	}
	held = slices.DeleteFunc(held, func(m Member) bool {
		left := !slices.Contains(still, m.PID)
		if left {
			closeAll([]Member{m})
		}
		return left
	})
	f(held)
	return short
}

func closeAll(held []Member) {
	for _, m := range held {
		_ = unix.Close(m.fd) // nothing is buffered
	}
}

// Exists reports whether the process has not been reaped: until then no other process
// can have its PID.
func (m Member) Exists() bool { return unix.PidfdSendSignal(m.fd, 0, nil, 0) == nil }

// signal sends a signal, also to a process that has just ended.
func (m Member) signal(sig unix.Signal) error {
	if err := unix.PidfdSendSignal(m.fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %d to %d: %w", sig, m.PID, err)
	}
	return nil
}

// await returns when the process has ended, or at the deadline.
func (m Member) await(deadline time.Time) {
	fds := []unix.PollFd{{Fd: int32(m.fd), Events: unix.POLLIN}}
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return
		}
		if _, err := unix.Poll(fds, int(left/time.Millisecond)+1); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// Signal sends sig once to every process of the cgroup at dir and of those below it.
func Signal(dir string, sig unix.Signal) error {
	return Each(dir, func(m Member) error { return m.signal(sig) })
}

// killPause is the time to the next round of a kill that lacked descriptors.
const killPause = 10 * time.Millisecond

// Kill kills every process of the cgroup at dir, and of those below it, until there is
// none. It tries for at most the time given; its error names the processes that
// still live then, or tells why that is not known. A process that forks is found again in
// the next round. killed, which may be nil, is called after each round, for example to thaw
// the cgroup. An empty dir means that there is no cgroup.
func Kill(dir string, within time.Duration, killed func()) error {
	if dir == "" {
		return nil
	}
	deadline := time.Now().Add(within)
	for {
		left, err := PIDs(dir)
		if err == nil && len(left) == 0 {
			return nil
		}
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) // v2, Linux 5.14; the rounds do without
		err = cmp.Or(err, each(dir, left, func(m Member) error { return m.signal(unix.SIGKILL) }))
		if killed != nil {
			killed()
		}
		if err == nil {
			awaitSome(dir, deadline)
		} else {
			time.Sleep(killPause) // some were not killed; nothing tells when there are descriptors for them
		}
		if time.Now().After(deadline) {
			return stillAlive(dir, within, err)
		}
	}
}

// awaitSome waits for the ends of some processes of a cgroup. It kills them itself, because one
// that was forked after the others were listed was not killed with them.
func awaitSome(dir string, deadline time.Time) {
	left, _ := PIDs(dir) // an error: the next round meets it too
	_ = withMembers(dir, left[:min(len(left), heldTogether)], func(held []Member) {
		for _, m := range held {
			if m.signal(unix.SIGKILL) == nil {
				m.await(deadline)
			}
		}
	})
}

// stillAlive is the error of a kill that is out of time; nil: the cgroup is empty.
func stillAlive(dir string, within time.Duration, killing error) error {
	left, err := PIDs(dir)
	switch {
	case err != nil:
		return fmt.Errorf("not known to be killed: %w", err)
	case len(left) == 0:
		return nil
	case killing != nil:
		return fmt.Errorf("processes %v of cgroup %s could not be killed: %w", some(left), dir, killing)
	}
	return fmt.Errorf("processes %v of cgroup %s did not end within %v of SIGKILL, see /proc/PID/stack", some(left), dir, within)
}

// some are the first of many PIDs: an error is read by people.
func some(pids []int) []int { return pids[:min(len(pids), 10)] }
