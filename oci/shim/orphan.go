package shim

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

const (
	// reapPatience is how long an adopted process's exit status is waited for
	// after its end: whoever is its parent now has to reap it first.
	reapPatience = 5 * time.Second

	unknownMessage = "the exit status was lost: the shim that was the parent of the container died"
)

// orphan is a process that was another shim's child. It can't be waited for, only
// watched, through the pidfd that it owns.
type orphan struct {
	pidfd *os.File
	told  chan shimapi.ExitStatus // one element, of who reaped it
}

// newOrphan takes hold of a process, by the pidfd from when it was a child or,
// without, by pid as long as its start time is the one recorded.
func newOrphan(rec shimapi.Record, pidfd *os.File) (o *orphan, err error) {
	if pidfd == nil {
		if pidfd, err = openPidfd(rec.PID); err != nil {
			return nil, fault(shimapi.KindNotFound, "%w", err)
		}
		if started, err := shimapi.StartTime(rec.PID); err != nil || started != rec.StartTime {
			_ = pidfd.Close() // a stranger's
			return nil, fault(shimapi.KindNotFound, "process %d has ended", rec.PID)
		}
	}
	return &orphan{pidfd, make(chan shimapi.ExitStatus, 1)}, nil
}

func (o *orphan) signal(sig syscall.Signal) error {
	raw, err := o.pidfd.SyscallConn()
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

// tell takes what the reaper says; only the first time counts.
func (o *orphan) tell(status shimapi.ExitStatus) {
	select {
	case o.told <- status:
	default:
	}
}

// await returns how the process ended, and whether that could be learned: from
// who reaped it, or from the kernel, which knows once it was reaped.
func (o *orphan) await() (status shimapi.ExitStatus, known bool) {
	if err := awaitPidfd(o.pidfd); err != nil {
		return shimapi.ExitStatus{Code: shimapi.CodeUnknown, FinishedAt: time.Now()}, false
	}
	ended := time.Now()
	_ = o.pidfd.SetReadDeadline(ended.Add(reapPatience)) // it polls, so it can
	reaped := make(chan *shimapi.ExitStatus, 1)
	go func() { reaped <- o.exitInfo(ended) }()
	select {
	case status = <-o.told:
		_ = o.pidfd.SetReadDeadline(ended) // ends the goroutine
		<-reaped
		return status, true
	case s := <-reaped:
		if s != nil {
			return *s, true
		}
	}
	select {
	case status = <-o.told:
		return status, true
	default:
		return shimapi.ExitStatus{Code: shimapi.CodeUnknown, FinishedAt: ended}, false
	}
}

// exitInfo asks the kernel (PIDFD_GET_INFO, Linux 6.15) until it knows or the
// deadline has passed; nil: it does not. The pidfd tells of the reaping.
func (o *orphan) exitInfo(ended time.Time) (status *shimapi.ExitStatus) {
	raw, err := o.pidfd.SyscallConn()
	if err != nil {
		return nil
	}
	_ = raw.Read(func(fd uintptr) bool { // an error is the deadline
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		if unix.IoctlPidfdInfo(int(fd), &info) != nil || info.Mask&unix.PIDFD_INFO_EXIT == 0 {
			return false
		}
		status = &shimapi.ExitStatus{FinishedAt: ended}
		status.Code, status.Signal = waitCode(syscall.WaitStatus(info.Exit_code))
		return true
	})
	return status
}

func (o *orphan) close() { _ = o.pidfd.Close() }
