package flock

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked is wrapped when another process has the lock. It is not the kernel's EWOULDBLOCK,
// which is also EAGAIN, the error of a fork without process IDs.
var ErrLocked = errors.New("another process has it")

// Try makes the lock file at path if there is none, and locks it without waiting. The
// lock lasts until the file is closed. The file is not open for writing, which would keep
// the filesystem from being mounted read-only.
func Try(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

// Wait is [Try] that waits for another process to give the lock up, for at most patience.
func Wait(path string, patience time.Duration) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return wait(f, patience)
}

// WaitDir is [Wait] for a lock on a directory itself, which must be there. Nothing is left
// in it.
func WaitDir(dir string, patience time.Duration) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return wait(f, patience)
}

// wait locks a file that it takes over: after an error it is closed, or will be.
func wait(f *os.File, patience time.Duration) (*os.File, error) {
	// The kernel waits without a deadline. After patience the wait goes on by itself until
	// the other process gives the lock up, and closes the file then.
	locked, givenUp := make(chan error), make(chan struct{})
	go func() {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		for errors.Is(err, unix.EINTR) {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
		select {
		case locked <- err:
		case <-givenUp:
			_ = f.Close() // nothing is buffered
		}
	}()
	select {
	case err := <-locked:
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
		}
		return f, nil
	case <-time.After(patience):
		close(givenUp)
		return nil, fmt.Errorf("lock %s: %w", f.Name(), ErrLocked)
	}
}
