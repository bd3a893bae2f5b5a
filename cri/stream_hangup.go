package cri

import (
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// hangups tells when clients have closed their ends of connections, also while nothing
// reads from these: an exec whose program does not read its input stops the reading of
// all that its client sends, the connection's end included. The kernel is asked for the
// end alone, by an epoll that sleeps in the runtime's own poller.
type hangups struct {
	epoll *os.File

	mu      sync.Mutex
	next    uint32
	waiting map[uint32]func()
}

func newHangups() (*hangups, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch connections: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that it is given to the poller
		_ = unix.Close(fd)
		return nil, fmt.Errorf("watch connections: %w", err)
	}
	h := &hangups{epoll: os.NewFile(uintptr(fd), "epoll"), waiting: map[uint32]func(){}}
	go h.run()
	return h, nil
}

// close ends the watching; connections stay as they are.
func (h *hangups) close() { _ = h.epoll.Close() }

// add has gone called once the other end of conn is closed, unless remove is called
// with the number it returns.
func (h *hangups) add(conn *net.TCPConn, gone func()) (number uint32) {
	h.mu.Lock()
	h.next++
	number = h.next
	h.waiting[number] = gone
	h.mu.Unlock()
	raw, err := conn.SyscallConn()
	if err == nil {
		event := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(number)}
		cerr := raw.Control(func(fd uintptr) { err = h.control(int(fd), &event) })
		if cerr != nil {
			err = cerr
		}
	}
	if err != nil {
		klog.ErrorS(err, "A connection is not watched; its end is seen when it is read")
	}
	return number
}

func (h *hangups) control(fd int, event *unix.EpollEvent) (err error) {
	raw, err := h.epoll.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(epoll uintptr) { err = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, fd, event) })
	if cerr != nil {
		return cerr
	}
	return err
}

// remove is for a connection that is closed on this side; the kernel forgets it then.
func (h *hangups) remove(number uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.waiting, number)
}

// run ends with close.
func (h *hangups) run() {
	raw, err := h.epoll.SyscallConn()
	if err != nil {
		return
	}
	var events [32]unix.EpollEvent
	for {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events[:], 0)
			return n > 0
		})
		if err != nil {
			return
		}
		for _, e := range events[:n] {
			if gone := h.take(uint32(e.Fd)); gone != nil {
				gone()
			}
		}
	}
}

func (h *hangups) take(number uint32) func() {
	h.mu.Lock()
	defer h.mu.Unlock()
	gone := h.waiting[number]
	delete(h.waiting, number)
	return gone
}
