package shim

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// sleeper waits for many files at once. Each pod and container has several that nothing happens
// on for most of its life: pidfds, outputs, eventfds. A goroutine for each takes 3 to 5 KiB,
// which the collector looks through every time.
type sleeper struct {
	epoll *os.File // sleeps in Go's poller itself

	mu      sync.Mutex
	watches map[uint32]*watch
	last    uint32 // ID of a watch
}

// sleepers is the one sleeper of the process, as Go has one poller. nil: the kernel gave none,
// and whoever waits does so in a goroutine.
var sleepers = sync.OnceValue(func() *sleeper {
	s, err := newSleeper()
	if err != nil {
		slog.Error("idle containers take more memory", "error", err)
		return nil
	}
	return s
})

func newSleeper() (*sleeper, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("wait for files: epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(fmt.Errorf("wait for files: epoll: %w", err), unix.Close(fd))
	}
	s := &sleeper{epoll: os.NewFile(uintptr(fd), "epoll"), watches: map[uint32]*watch{}}
	if err := s.epoll.SetReadDeadline(time.Time{}); err != nil { // Go's poller has not taken it
		return nil, errors.Join(fmt.Errorf("wait for files: epoll: %w", err), s.epoll.Close())
	}
	go s.run()
	return s, nil
}

// run ends when the epoll is closed.
func (s *sleeper) run() {
	raw, err := s.epoll.SyscallConn()
	if err != nil {
		return
	}
	var events [64]unix.EpollEvent
	for {
		var n int
		err := raw.Read(func(fd uintptr) bool {
			n, _ = ignoringEINTR(func() (int, error) { return unix.EpollWait(int(fd), events[:], 0) }) // no other error can come
			return n > 0
		})
		if err != nil {
			return
		}
		for _, e := range events[:max(n, 0)] {
			s.wake(uint32(e.Fd))
		}
	}
}

func (s *sleeper) wake(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.watches[id]; w != nil && w.armed { // else it was stopped a moment ago
		w.armed = false
		go w.ready()
	}
}

// watch is one file that a sleeper waits for, again and again.
type watch struct {
	sleeper *sleeper
	id      uint32
	file    *os.File
	ready   func()

	// guarded by the sleeper's mu
	added   bool // the epoll has the file
	armed   bool
	stopped bool
}

// watch makes a watch of a file, which calls ready once after each arm. s may be nil.
func (s *sleeper) watch(file *os.File, ready func()) *watch {
	return &watch{sleeper: s, file: file, ready: ready}
}

// arm has ready called, in a goroutine of its own, as soon as the file can be read or has no
// writer any more. false: it will not be, because the watch was stopped, the file is closed or
// the kernel has no room. The caller then waits for the file itself.
func (w *watch) arm() bool {
	if w.sleeper == nil {
		return false
	}
	w.sleeper.mu.Lock()
	defer w.sleeper.mu.Unlock()
	if w.stopped {
		return false
	}
	op := unix.EPOLL_CTL_MOD
	if !w.added {
		op = unix.EPOLL_CTL_ADD
		w.id = w.sleeper.free()
		w.sleeper.watches[w.id] = w
	}
	if err := w.control(op); err != nil {
		w.forget()
		return false
	}
	w.added, w.armed = true, true
	return true
}

// free is an ID that no watch has. It is called with mu held.
func (s *sleeper) free() uint32 {
	for s.last++; s.watches[s.last] != nil; s.last++ {
	}
	return s.last
}

// control is called with the sleeper's mu held.
func (w *watch) control(op int) error {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	// The ID stands in the place of the descriptor, whose number another file may have later.
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(w.id)}
	cerr := raw.Control(func(fd uintptr) { err = unix.EpollCtl(int(w.sleeper.epoll.Fd()), op, int(fd), &event) })
	return errors.Join(cerr, err)
}

// forget is called with the sleeper's mu held.
func (w *watch) forget() {
	delete(w.sleeper.watches, w.id)
	w.added, w.armed = false, false
}

// stop ends the watch, before its file is closed: the daemon may have a duplicate, and the
// epoll would keep the file for as long. Afterwards ready is not called any more, though a call
// may be under way. waited tells that ready would have been called yet.
func (w *watch) stop() (waited bool) {
	if w.sleeper == nil {
		return false
	}
	w.sleeper.mu.Lock()
	defer w.sleeper.mu.Unlock()
	waited, w.stopped = w.armed, true
	if w.added {
		_ = w.control(unix.EPOLL_CTL_DEL) // an error: the file is closed
		w.forget()
	}
	return waited
}

// onEnd calls f, in a goroutine of its own, once a process has ended. For one that nothing but
// its wait tells of, f is called at once.
func onEnd(p process, f func()) {
	pidfd := p.file()
	if pidfd == nil {
		go f()
		return
	}
	var w *watch
	w = sleepers().watch(pidfd, func() {
		w.stop()
		f()
	})
	if !w.arm() {
		go f()
	}
}
