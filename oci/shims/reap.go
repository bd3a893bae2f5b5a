package shims

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"berth/oci/procfs"
	"berth/oci/shimapi"
)

// reapDelay is how long an unrelated orphan may stay a zombie. Most children that end
// are our own, and are waited for by then.
const reapDelay = time.Second

// becomeSubreaper makes the containers of a dead shim our children, so that their exit
// status can still be collected. Unrelated orphans become our children too; they are
// reaped until Close.
func (s *Set) becomeSubreaper() {
	if !awaitedByPidfd() {
		return // unrelated orphans could not be told from our own children
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
			again = reapUnknown()
		}
	})
}

// awaitedByPidfd reports whether package os waits for its children by pidfd, as it does
// since Linux 5.4. Our own children are known by those pidfds.
func awaitedByPidfd() bool {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return false
	}
	defer self.Release() //nolint:errcheck // a handle
	return self.WithHandle(func(uintptr) {}) == nil
}

// reapUnknown reaps zombies that neither an [os.Process] nor a handover waits for. It
// returns true if it stopped at one of those and has to run again.
func reapUnknown() (again bool) {
	for {
		pid := zombie()
		if pid == 0 {
			return false
		}
		if isAwaited(pid) {
			return true
		}
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // nobody needs its exit status
	}
}

// zombie returns the PID of a child that has ended and was not waited for, 0 if there is
// none. The child stays a zombie.
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

// isAwaited reports whether this process has a pidfd of the child open, or may have: a child
// that is awaited and reaped here would lose its status. Package os has one of each child
// from its start until it was waited for, and handover.pidfd is one of a container.
func isAwaited(pid int) bool { return mayHold("/proc/self", pid) }

// mayHold tells whether the process of a directory of /proc has a pidfd of pid. It does so
// too when that can't be told.
func mayHold(proc string, pid int) bool {
	entries, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return true
	}
	line := "Pid:\t" + strconv.Itoa(pid) + "\n"
	for _, e := range entries {
		link, err := os.Readlink(filepath.Join(proc, "fd", e.Name()))
		if err == nil && !strings.Contains(link, "pidfd") {
			continue
		}
		var info []byte
		if err == nil {
			info, err = os.ReadFile(filepath.Join(proc, "fdinfo", e.Name()))
		}
		if errors.Is(err, os.ErrNotExist) {
			continue // closed since the descriptors were listed
		}
		if err != nil || strings.Contains(string(info), line) {
			return true
		}
	}
	return false
}

// collectExit waits for the first process of a container of a dead shim, if we are its
// parent now, and reports its exit status to the process that adopts it, while that still adopts
// others: it does not wait for long for the status of a process that has ended.
func (sh *Shim) collectExit(h *handover) {
	s := sh.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.pidfd == nil || h.reaping || !isChild(h.pidfd) {
		return
	}
	h.reaping = true
	s.tasks.Go(func() {
		status, ok := s.reap(h.pidfd) // not closed while reaping is set
		s.mu.Lock()
		if ok {
			h.exit = &status
		}
		if h.reaping = false; h.closing {
			h.closeFiles()
		}
		holder := h.holder
		s.mu.Unlock()
		if ok {
			holder.reportExit(s.ctx, h.ID, status)
		}
	})
}

// reportExit tells this process how a container has ended that it may have adopted. If it has
// not, or has died, the adoption tells it, see sendTo.
func (p *process) reportExit(ctx context.Context, id string, status shimapi.ExitStatus) {
	bounded, cancel := context.WithTimeoutCause(ctx, answerPatience, ErrStuck)
	defer cancel()
	c := p.dial(bounded)
	c.WriteRequest(shimapi.MethodReportExit, shimapi.ReportExitRequest{ID: id, Exit: status})
	_ = c.answer(bounded, nil) // after any other error the shim asks the kernel
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
	var info unix.Siginfo
	_ = procfs.Await(s.ctx, pidfd, func(fd int) bool { // an error comes at Close only
		err := error(unix.EINTR)
		for errors.Is(err, unix.EINTR) {
			info = unix.Siginfo{}
			err = unix.Waitid(unix.P_PIDFD, fd, &info, unix.WEXITED|unix.WNOHANG, nil)
		}
		ok = err == nil && info.Signo != 0
		return ok || err != nil
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

// cldExited is si_code of a process that exited, in contrast to one ended by a signal.
const cldExited = 1
