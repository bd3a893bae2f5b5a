package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// lockName is the file below a directory that says which berthd owns it.
const lockName = "berthd.lock"

// lock is held on a directory for the life of the process.
type lock struct{ f *os.File }

// lockDir makes dir and takes it for this process: two daemons on one root would
// each destroy what the other makes. The kernel drops the lock with the process,
// so a killed daemon never leaves a stale one.
func lockDir(dir string) (*lock, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		holder, _ := os.ReadFile(path) // the PID only makes the error easier to read
		f.Close()
		return nil, fmt.Errorf("%s is in use by the berthd with pid %s: stop that one, or give this one another --root and --state", dir, strings.TrimSpace(string(holder)))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	if _, err := fmt.Fprintln(f, os.Getpid()); err != nil {
		f.Close()
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return &lock{f: f}, nil
}

// release lets the next daemon in. The file stays: removing it would let two
// daemons lock two files of the same name.
func (l *lock) release() { l.f.Close() }
