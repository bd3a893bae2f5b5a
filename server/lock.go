package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"berth/oci/flock"
	"berth/oci/procfs"
)

const (
	// lockName is the file below a directory that says which berthd owns it.
	lockName = "berthd.lock"
	// lockPatience is how long somebody else may have the lock. A daemon that is
	// killed takes a moment to end, and what it had just forked shares the lock
	// until it executes its program.
	lockPatience = 2 * time.Second
)

// lock is held on a directory for the life of the process.
type lock struct{ f *os.File }

// lockDir makes dir and takes it for this process: two daemons on one root would
// each destroy what the other makes. The kernel drops the lock with the process,
// so a killed daemon never leaves a stale one.
func lockDir(ctx context.Context, dir string, patience time.Duration) (*lock, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	path := filepath.Join(dir, lockName)
	f, err := flock.Try(path)
	if errors.Is(err, flock.ErrLocked) {
		klog.FromContext(ctx).Info("Waiting for a lock that another process has", "file", path, "patience", patience)
		f, err = flock.Wait(path, patience)
	}
	if errors.Is(err, flock.ErrLocked) {
		return nil, inUse(dir, path)
	}
	if err != nil {
		return nil, err
	}
	awaitOwner(ctx, path, patience)
	if err := os.WriteFile(path, fmt.Appendln(nil, os.Getpid()), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return &lock{f: f}, nil
}

// awaitOwner waits, at most so long, until the daemon that has written its PID into a lock file has
// ended. It gives the lock back shortly before, and what it could not finish in time may write
// records until then.
func awaitOwner(ctx context.Context, path string, patience time.Duration) {
	data, _ := os.ReadFile(path) // without a PID nobody is waited for
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid == os.Getpid() || procfs.Name(pid) != procfs.Name(os.Getpid()) {
		return // another program may have the PID by now
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return // it has ended
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer pidfd.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := procfs.AwaitEnd(ctx, pidfd); err != nil {
		klog.FromContext(ctx).Info("The berthd before has given its lock back and does not end", "file", path, "pid", pid)
	}
}

// inUse says who has the lock: the berthd that wrote its PID into the file or,
// when that has ended, who got the file from it.
func inUse(dir, path string) error {
	data, _ := os.ReadFile(path) // the PID only makes the error easier to read
	owner := strings.TrimSpace(string(data))
	others := holders(path)
	if len(others) == 0 || slices.ContainsFunc(others, func(o string) bool { return strings.HasPrefix(o, owner+" ") }) {
		return fmt.Errorf("%s is in use by the berthd with pid %s: stop that one, or give this one another --root and --state", dir, owner)
	}
	return fmt.Errorf("%s is in use: the berthd with pid %s has ended, but not %s, which shares its lock: end that", dir, owner, strings.Join(others, ", "))
}

// holders are the processes that have a file open, but for this one.
func holders(path string) (out []string) {
	file, err := os.Stat(path)
	if err != nil {
		return nil
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // no error with this pattern
	for _, link := range links {
		name, _ := os.Readlink(link)
		if filepath.Base(name) != filepath.Base(path) {
			continue
		}
		info, err := os.Stat(link)
		pid, _ := strconv.Atoi(strings.Split(link, "/")[2]) // the pattern has digits alone
		if err != nil || !os.SameFile(info, file) || pid == os.Getpid() {
			continue
		}
		if holder := fmt.Sprintf("%d (%s)", pid, procfs.Name(pid)); !slices.Contains(out, holder) {
			out = append(out, holder)
		}
	}
	return out
}

// release lets the next daemon in. The file stays: removing it would let two
// daemons lock two files of the same name.
func (l *lock) release() { l.f.Close() }
