package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// fifoSet are the fifos by which a foreign shim passes the streams of one process. A fifo is
// a pipe with a name: our ends are held, duplicated and handed over like those of pipes.
//
// Until the shim has opened its ends, an end of each is held here: a reader without a
// writer would see the end of the stream, a writer without a reader could not be opened.
type fifoSet struct {
	in, out, err string // paths; "": none

	mu       sync.Mutex
	held     []*os.File
	released bool
}

func (s *fifoSet) paths() (stdin, stdout, stderr string) { return s.in, s.out, s.err }

// open makes a fifo and opens our end of it, which does not block.
func (s *fifoSet) open(path string, mode int) (*os.File, error) {
	err := unix.Mkfifo(path, 0o600)
	if err != nil {
		return nil, fmt.Errorf("fifo: %w", &os.PathError{Op: "mkfifo", Path: path, Err: err})
	}
	// Both ends: neither waits for the other, nor sees it missing.
	both, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fifo: %w", err), os.Remove(path))
	}
	if err := s.hold(both); err != nil {
		return nil, errors.Join(err, both.Close(), os.Remove(path))
	}
	ours, err := os.OpenFile(path, mode|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("fifo: %w", err)
	}
	return ours, nil
}

// hold keeps a file until release. It fails after that: nobody would close the file.
func (s *fifoSet) hold(f *os.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.released {
		return errors.New("fifo: the process has ended")
	}
	s.held = append(s.held, f)
	return nil
}

// release closes what was held until the shim had its ends, and removes the names, which
// nobody needs any more. It can be repeated.
func (s *fifoSet) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.released = true
	if s.held == nil {
		return
	}
	for _, f := range s.held {
		_ = f.Close() // nothing is buffered
	}
	s.held = nil
	for _, path := range []string{s.in, s.out, s.err} {
		if path != "" {
			_ = os.Remove(path) // it goes with the bundle at the latest
		}
	}
}

// newFifoStdio opens the log and the fifos of a container's first process. With a terminal
// stdout is all of its output.
func newFifoStdio(fifos *fifoSet, dir string, to logTarget, stdin, terminal bool) (s *stdio, err error) {
	s = &stdio{terminal: terminal, fifos: true}
	defer func() {
		if err != nil {
			fifos.release()
			s.close()
		}
	}()
	if err := s.openLog(to); err != nil {
		return s, err
	}
	if stdin {
		fifos.in = filepath.Join(dir, "stdin")
		if s.stdin, err = fifos.open(fifos.in, os.O_WRONLY); err != nil {
			return s, err
		}
	}
	fifos.out = filepath.Join(dir, "stdout")
	out, err := fifos.open(fifos.out, os.O_RDONLY)
	if err != nil {
		return s, err
	}
	s.run("stdout", out)
	if terminal {
		return s, nil
	}
	fifos.err = filepath.Join(dir, "stderr")
	stderr, err := fifos.open(fifos.err, os.O_RDONLY)
	if err != nil {
		return s, err
	}
	s.run("stderr", stderr)
	return s, nil
}
