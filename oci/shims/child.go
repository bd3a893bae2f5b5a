package shims

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"syscall"
	"time"

	"berth/oci/shimapi"
)

// child is a process of a shim that we started.
type child struct {
	proc   *os.Process
	killed atomic.Bool // by us
	log    string      // of the shim
	from   int64       // where this process's part of the log begins

	reaped chan struct{}    // closed when it has ended and was waited for
	state  *os.ProcessState // how it ended, set by then; nil: that is not known
}

// newChild waits for the process in the background: the shim may outlive us, and if it does not,
// it must not stay a zombie.
func newChild(proc *os.Process, dir string, from int64) *child {
	c := &child{proc: proc, log: filepath.Join(dir, shimapi.LogName), from: from, reaped: make(chan struct{})}
	go func() {
		defer close(c.reaped)
		c.state, _ = proc.Wait() // an error: nothing is known of the end
	}()
	return c
}

func (c *child) kill() {
	c.killed.Store(true)
	_ = c.proc.Kill() // it may have ended
	<-c.reaped
}

// end ends a process that could not take over because of err, and returns that error, as a
// [notStarted] where the process has ended for a shortage.
func (c *child) end(err error) error {
	if isHangup(err) {
		select { // its connections end slightly before it does
		case <-c.reaped:
		case <-time.After(dyingPatience):
		}
	}
	c.killInTime()
	if c.lackedSomething() {
		return notStarted{err}
	}
	return err
}

// killInTime is kill for a process one of whose threads may wait for a file system that hangs, and
// which then ends when that goes on. Until then it has the lock of the shim's directory.
func (c *child) killInTime() {
	select {
	case <-c.reaped:
		return
	default:
	}
	c.killed.Store(true)
	_ = c.proc.Kill() // it may have ended
	select {
	case <-c.reaped:
	case <-time.After(dyingPatience):
	}
}

// lackedSomething tells whether the process has ended since the host lacks what may be there
// later: it was killed by another than us, as the kernel does for want of memory, or Go could not
// go on without memory or a thread. It is no fault of the program, nor of what that adopts.
func (c *child) lackedSomething() bool {
	select {
	case <-c.reaped:
	default:
		return false
	}
	if c.state == nil || c.killed.Load() {
		return false
	}
	status := c.state.Sys().(syscall.WaitStatus)
	if status.Signaled() && status.Signal() == syscall.SIGKILL {
		return true
	}
	const fatal = 2 // Go's code for an end by its runtime, be it a panic
	return (status.ExitStatus() == fatal || status.Signaled() && status.Signal() == syscall.SIGABRT) && c.saysShortage()
}

// shortageTexts begin lines that Go's runtime writes before it ends the process.
var shortageTexts = regexp.MustCompile(`(?m)^(runtime: failed to create new OS thread|runtime/cgo: pthread_create failed|` +
	`runtime: out of memory|fatal error: .*(out of memory|cannot allocate memory|newosproc))`)

// maxLastWords is how much of the log of a process is searched, which lived for a moment. Its
// last words come before the stacks of its goroutines.
const maxLastWords = 8 << 20

func (c *child) saysShortage() bool {
	log, err := os.Open(c.log)
	if err != nil {
		return false
	}
	defer log.Close()
	from := c.from
	if info, err := log.Stat(); err != nil || info.Size() < from {
		from = 0 // it was cut off meanwhile
	}
	if _, err := log.Seek(from, io.SeekStart); err != nil {
		return false
	}
	return shortageTexts.MatchReader(bufio.NewReader(io.LimitReader(log, maxLastWords)))
}
