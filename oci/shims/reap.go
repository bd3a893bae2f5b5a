package shims

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// reapDelay is how long a stranger may stay a zombie. Most children that end are
// our own and waited for by then.
const reapDelay = time.Second

// beReaper makes us the one who inherits what a dead shim leaves, so that the exit
// status of a container is still waited for. As such we get strangers as well,
// which are reaped until Close.
func (s *Set) beReaper() {
	if !awaitedByPidfd() {
		return // strangers could not be told from our own
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return // before Linux 3.4
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	s.tasks.Go(func() {
		defer signal.Stop(ended)
		for again := false; ; {
			if !again {
				select {
				case <-ended:
				case <-s.ctx.Done():
					return
				}
			}
			select {
			case <-time.After(reapDelay):
			case <-s.ctx.Done():
				return
			}
			again = reapStrangers()
		}
	})
}

// awaitedByPidfd tells whether package os waits for children by pidfds, which are
// how we know them: as it does since Linux 5.4.
func awaitedByPidfd() bool {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return false
	}
	defer self.Release() //nolint:errcheck // a handle
	return self.WithHandle(func(uintptr) {}) == nil
}

// reapStrangers reaps children that nobody of us waits for. It tells whether one
// of our own was in the way.
func reapStrangers() (again bool) {
	for {
		pid := zombie()
		if pid == 0 {
			return false
		}
		if isAwaited(pid) {
			return true
		}
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // how a stranger ended is nobody's concern
	}
}

// zombie is a child that has ended and was not waited for, 0 when there is none.
// It stays one.
func zombie() int {
	var info struct {
		unix.Siginfo
	}
	for {
		err := unix.Waitid(unix.P_ALL, 0, &info.Siginfo, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0 // no children
		}
		break
	}
	const pidOffset = 16 // si_pid of siginfo_t, where pointers have 8 bytes
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info.Siginfo), pidOffset)))
}

// isAwaited tells whether we hold a pidfd of a child: package os does from the
// child's first moment until it has waited, and custody does of containers.
func isAwaited(pid int) bool {
	const fds = "/proc/self/fd/"
	entries, err := os.ReadDir(fds)
	if err != nil {
		return true
	}
	line := "Pid:\t" + strconv.Itoa(pid) + "\n"
	for _, e := range entries {
		if link, err := os.Readlink(fds + e.Name()); err != nil || !strings.Contains(link, "pidfd") {
			continue
		}
		info, err := os.ReadFile("/proc/self/fdinfo/" + e.Name())
		if err == nil && strings.Contains(string(info), line) {
			return true
		}
	}
	return false
}

// reapOrphan waits, if we are its parent now, for a container's first process and
// tells the shim that adopted it how it ended.
func (s *Set) reapOrphan(shim string, k *custody) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.pidfd == nil || k.reaping || !isChild(k.pidfd) {
		return
	}
	k.reaping = true
	s.tasks.Go(func() {
		status, ok := s.reap(k.pidfd) // which stays as it is while reaping
		s.mu.Lock()
		if ok {
			k.exit = &status
		}
		if k.reaping = false; k.dropped {
			k.closeFiles()
		}
		s.mu.Unlock()
		if !ok {
			return
		}
		if sh, err := s.Get(shim); err == nil {
			r := shimapi.TellExitRequest{ID: k.ID, Exit: status}
			_ = sh.call(s.ctx, shimapi.MethodTellExit, r, nil) // or adoption tells; or the kernel
		}
	})
}

func isChild(pidfd *os.File) bool {
	child := false
	if raw, err := pidfd.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			child = unix.Waitid(unix.P_PIDFD, int(fd), nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == nil
		})
	}
	return child
}

// reap waits for a child by its pidfd, until Close.
func (s *Set) reap(pidfd *os.File) (status shimapi.ExitStatus, ok bool) {
	stop := context.AfterFunc(s.ctx, func() { _ = pidfd.SetReadDeadline(time.Now()) })
	defer stop()
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return status, false
	}
	var info unix.Siginfo
	_ = raw.Read(func(fd uintptr) bool { // an error is the deadline
		info = unix.Siginfo{}
		err := unix.Waitid(unix.P_PIDFD, int(fd), &info, unix.WEXITED|unix.WNOHANG, nil)
		ok = err == nil && info.Signo != 0
		return ok || err != nil && !errors.Is(err, unix.EINTR)
	})
	if !ok {
		return status, false
	}
	const statusOffset = 24 // si_status, after si_pid and si_uid
	code := int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), statusOffset)))
	status = shimapi.ExitStatus{Code: code, FinishedAt: time.Now()}
	if info.Code != cldExited {
		sig := syscall.Signal(code)
		status.Code, status.Signal = 128+int(sig), int(sig)
	}
	return status, true
}

// cldExited is si_code of a process that ended by itself, not by a signal.
const cldExited = 1
