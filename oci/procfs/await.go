package procfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// AwaitEnd returns nil when the process of a pidfd has ended. Any other result says nothing of
// the process, only that ctx has ended or the pidfd was closed.
func AwaitEnd(ctx context.Context, pidfd *os.File) error { return Await(ctx, pidfd, HasEnded) }

// HasEnded tells whether the process of a pidfd has ended. Its parent need not have waited
// for it.
func HasEnded(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n > 0
		}
	}
}

// Await returns nil once done does of a pidfd, which it is asked at first and when the process
// ends or is reaped; else see [AwaitEnd]. It sleeps in Go's poller, which wants a pidfd that
// does not block (PIDFD_NONBLOCK): a thread takes some 20 KiB. A pidfd that the poller did
// not accept, because the user has no more watches or the kernel no memory (epoll_ctl(2)),
// keeps a thread nevertheless.
func Await(ctx context.Context, pidfd *os.File, done func(pidfd int) bool) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for a process: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = pidfd.SetReadDeadline(time.Unix(1, 0)) }) // an error: the poller has no part in it
	defer stop()
	if raw.Read(func(fd uintptr) bool { return done(int(fd)) }) == nil {
		return nil
	}
	for over := false; !over; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		err := raw.Control(func(fd uintptr) {
			if over = done(int(fd)); !over {
				sleep(int(fd))
			}
		})
		if err != nil { // it was closed
			return fmt.Errorf("wait for a process: %w", err)
		}
	}
	return nil
}

// sleepTime bounds how late a sleeping thread sees the end of the context.
const sleepTime = 100 * time.Millisecond

// sleep returns when the process of a pidfd ends, or after sleepTime. It returns only then
// for one that has ended and is to be reaped.
func sleep(pidfd int) {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	if HasEnded(pidfd) {
		fds = nil
	}
	_, err := unix.Poll(fds, int(sleepTime/time.Millisecond))
	if err != nil && !errors.Is(err, unix.EINTR) {
		time.Sleep(sleepTime) // the kernel lacks memory
	}
}
