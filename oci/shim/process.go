package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/procfs"
	"berth/oci/shimapi"
)

// process is the first process of a container, or the pause process of a pod, wherever
// it came from: this shim has started it, or has adopted it from a shim that died. A
// restored process, or one of another runtime, would be a further implementation.
type process interface {
	// wait returns how the process ended, once it has. It is called once.
	wait() end
	// signal sends a signal. After the end the error is [os.ErrProcessDone].
	signal(sig syscall.Signal) error
	// alive reports whether the process has not ended. While it is alive no other
	// process can have its PID.
	alive() bool
	// file returns the pidfd that a replacement of this shim watches the process with,
	// nil if there is none.
	file() *os.File
	// report passes on an exit status that the daemon, as the parent, has collected.
	report(status shimapi.ExitStatus)
}

// end is how a process ended.
type end struct {
	shimapi.ExitStatus
	lost     bool // the status is not known: nobody has collected it
	neverRan bool // the process ended before it executed the container's command
}

// child is a process that this shim has started and has to wait for: an [os.Process], or
// a process of libcontainer.
type child interface {
	Signal(sig os.Signal) error
	Wait() (*os.ProcessState, error)
}

// started is a process that is a child of this shim.
type started struct {
	child
	pid    int
	pidfd  *os.File // nil: the kernel gave none, out of descriptors for example
	reaped atomic.Bool
}

// newStarted opens the pidfd of a child that was not waited for yet.
func newStarted(c child, pid int) *started {
	pidfd, err := openPidfd(pid)
	if err != nil {
		slog.Error("process not watched, waiting with a thread", "pid", pid, "error", err)
	}
	return &started{child: c, pid: pid, pidfd: pidfd}
}

// wait sleeps in Go's poller first: Wait would keep a thread, some 20 KiB, for every
// process.
func (p *started) wait() end {
	if p.pidfd != nil {
		if err := procfs.AwaitEnd(context.Background(), p.pidfd); err != nil {
			slog.Error("process not watched, waiting with a thread", "pid", p.pid, "error", err)
		}
		_ = p.pidfd.Close() // nothing is buffered
	}
	neverRan := procfs.Name(p.pid) == initComm // a zombie still has its name
	state, err := p.Wait()
	p.reaped.Store(true)
	if state == nil {
		slog.Error("process not waited for", "pid", p.pid, "error", err)
	}
	return end{ExitStatus: exitOf(state), neverRan: neverRan}
}

func (p *started) signal(sig syscall.Signal) error { return p.Signal(sig) }

func (p *started) alive() bool {
	return !p.reaped.Load() && (p.pidfd == nil || pidfdLives(p.pidfd))
}

func (p *started) file() *os.File { return p.pidfd }

func (p *started) report(shimapi.ExitStatus) {} // the shim is the parent and knows better

// terminate kills a process that nobody waits for yet, and waits for its end. A container that
// is supervised is ended by [container.end].
func terminate(p process) error {
	err := p.signal(unix.SIGKILL)
	p.wait() // its status does not matter
	if isGone(err) {
		return nil
	}
	return err
}

// adopted is a process that was the child of another shim, which has died. This shim
// can't wait for it, but only watch the pidfd.
type adopted struct {
	pidfd    *os.File
	patience time.Duration           // how long wait waits for the status after the end
	reported chan shimapi.ExitStatus // one element
}

// reapPatience is how long the exit status of an adopted container is waited for after
// its end: whoever is its parent now has to reap it first.
const reapPatience = 5 * time.Second

const unknownMessage = "the exit status was lost: the shim that was the parent of the container died"

// newAdopted takes over a process by the pidfd that the dead shim had. Without one it
// opens the pidfd of the recorded PID, if the start time is the recorded one.
func newAdopted(rec shimapi.Record, pidfd *os.File) (p *adopted, err error) {
	if pidfd == nil {
		fd, err := procfs.Pidfd(rec.PID, rec.StartTime, unix.PIDFD_NONBLOCK)
		if errors.Is(err, procfs.ErrEnded) {
			return nil, fault(shimapi.KindNotFound, "%w", err)
		}
		if err != nil {
			return nil, err
		}
		pidfd = os.NewFile(uintptr(fd), "pidfd")
	}
	return &adopted{pidfd, reapPatience, make(chan shimapi.ExitStatus, 1)}, nil
}

func (p *adopted) signal(sig syscall.Signal) error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return os.ErrProcessDone // closed after the end
	}
	cerr := raw.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	switch {
	case cerr != nil || errors.Is(err, unix.ESRCH):
		return os.ErrProcessDone
	case err != nil:
		return fmt.Errorf("signal %d to an adopted process: %w", sig, err)
	}
	return nil
}

func (p *adopted) alive() bool { return pidfdLives(p.pidfd) }

func (p *adopted) file() *os.File { return p.pidfd }

// report takes the first status that it is given.
func (p *adopted) report(status shimapi.ExitStatus) {
	select {
	case p.reported <- status:
	default:
	}
}

// wait gets the exit status from the daemon, if that was the parent, or from the kernel,
// which knows it once the process was reaped. It closes the pidfd.
func (p *adopted) wait() end {
	defer p.pidfd.Close()
	unknown := func(finished time.Time) end {
		return end{ExitStatus: shimapi.ExitStatus{Code: shimapi.CodeUnknown, FinishedAt: finished}, lost: true}
	}
	if err := procfs.AwaitEnd(context.Background(), p.pidfd); err != nil { // closed: nobody does that before
		slog.Error("adopted process not watched", "error", err)
		return unknown(time.Now())
	}
	finished := time.Now()
	patience, cancel := context.WithTimeout(context.Background(), p.patience)
	defer cancel()
	asked := make(chan *shimapi.ExitStatus, 1)
	go func() { asked <- p.askKernel(patience, finished) }()
	select {
	case status := <-p.reported:
		cancel()
		<-asked
		return end{ExitStatus: status}
	case status := <-asked:
		if status != nil {
			return end{ExitStatus: *status}
		}
	}
	select {
	case status := <-p.reported:
		return end{ExitStatus: status}
	default:
		return unknown(finished)
	}
}

// askKernel asks for the exit status (PIDFD_GET_INFO, Linux 6.15) until the kernel has it
// or the context has ended, nil then. The pidfd becomes readable again when the process
// is reaped.
func (p *adopted) askKernel(ctx context.Context, finished time.Time) (status *shimapi.ExitStatus) {
	_ = procfs.Await(ctx, p.pidfd, func(fd int) bool { // an error: the status stays nil
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		if unix.IoctlPidfdInfo(fd, &info) != nil || info.Mask&unix.PIDFD_INFO_EXIT == 0 {
			return false
		}
		status = &shimapi.ExitStatus{FinishedAt: finished}
		status.Code, status.Signal = waitCode(syscall.WaitStatus(info.Exit_code))
		return true
	})
	return status
}

// ended is a process whose end was recorded before this shim adopted its container.
type ended struct{}

func (ended) wait() end                   { return end{lost: true} }
func (ended) signal(syscall.Signal) error { return os.ErrProcessDone }
func (ended) alive() bool                 { return false }
func (ended) file() *os.File              { return nil }
func (ended) report(shimapi.ExitStatus)   {}
