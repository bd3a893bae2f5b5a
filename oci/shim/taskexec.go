package shim

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/cgroup"
	"berth/oci/shimapi"
)

// execPatience is how long the output of an exec is still passed on after its process has
// ended: a child of it may hold the stream open.
const execPatience = 500 * time.Millisecond

// taskSession is an exec in a container of a foreign shim. Its streams are fifos between the
// shim and us, copied from and to the client's files.
type taskSession struct {
	process TaskProcess
	group   *subgroup // of the process and its children; nil: the container's cgroup is not known
	fifos   fifoSet
	in      *os.File   // our end of stdin; nil: there is none
	outs    []*os.File // our ends of stdout and stderr
	files   []*os.File // the client's stdin, stdout and stderr; with a terminal the same socket for all
	copies  sync.WaitGroup
}

// execTask is exec in a container of a foreign shim. In place of the master of a terminal,
// which the shim has, the client gets a socket.
func (ctr *container) execTask(c *call, r shimapi.ExecRequest) (_ any, err error) {
	x := &session{}
	if !ctr.sessions.add(r.ExecID, x) {
		return nil, fault(shimapi.KindExists, "exec %s is running already", r.ExecID)
	}
	defer ctr.sessions.remove(r.ExecID)
	s := &taskSession{}
	defer s.close()
	var pass []*os.File
	if r.Terminal {
		ours, theirs, err := socketPair()
		if err != nil {
			return nil, err
		}
		defer theirs.Close()
		s.files, pass = []*os.File{ours, ours, nil}, []*os.File{theirs}
	} else if err := s.takeFiles(c); err != nil {
		return nil, err
	}
	pid, err := ctr.startExec(s, r)
	if err != nil {
		return nil, err
	}
	defer func() { go ctr.forgetExec(s) }() // the shim first waits for who still has the streams
	s.group = ctr.groups.gather(r.ExecID, pid)
	ctr.sessions.setTask(x, s)
	answered := c.answer(shimapi.ExecStarted{PID: pid}, nil, pass...)
	gone := c.hungUp()
	if answered != nil {
		ctr.endExec(s)
	}
	return ctr.waitExec(s, gone, r.Timeout)
}

// takeFiles makes the client's files pollable, so that a copy can be ended.
func (s *taskSession) takeFiles(c *call) error {
	files := c.files
	c.files = nil
	for i, f := range files {
		p, err := shimapi.Pollable(f)
		if err != nil {
			shimapi.CloseFiles(files[i+1:])
			return err
		}
		s.files = append(s.files, p)
	}
	return nil
}

// startExec makes the fifos, has the shim start the process, and starts to copy.
func (ctr *container) startExec(s *taskSession, r shimapi.ExecRequest) (pid int, err error) {
	base := filepath.Join(ctr.bundle, "exec-"+r.ExecID)
	s.fifos.in, s.fifos.out = base+"-in", base+"-out"
	if s.in, err = s.fifos.open(s.fifos.in, os.O_WRONLY); err != nil {
		return 0, err
	}
	outs := []string{s.fifos.out}
	if !r.Terminal {
		s.fifos.err = base + "-err"
		outs = append(outs, s.fifos.err)
	}
	for _, path := range outs {
		f, err := s.fifos.open(path, os.O_RDONLY)
		if err != nil {
			return 0, err
		}
		s.outs = append(s.outs, f)
	}
	spec, err := json.Marshal(r.Process)
	if err != nil {
		return 0, err
	}
	patience := foreignTimeout
	if r.Timeout > 0 { // of the command; a probe must not wait for minutes
		patience = min(patience, r.Timeout+stopGrace)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	t := TaskRequest{Terminal: r.Terminal}
	t.Stdin, t.Stdout, t.Stderr = s.fifos.paths()
	if s.process, err = ctr.task.Exec(ctx, r.ExecID, spec, t); err != nil {
		return 0, ctr.execFault(err)
	}
	if pid, err = s.process.Start(ctx); err != nil {
		ctr.forgetExec(s)
		return 0, ctr.execFault(err)
	}
	s.fifos.release()
	s.copy()
	if size := r.Process.ConsoleSize; r.Terminal && size != nil {
		if err := s.process.Resize(ctx, uint16(size.Width), uint16(size.Height)); err != nil {
			slog.Debug("exec's terminal keeps its size", "container", ctr.id, "error", err)
		}
	}
	return pid, nil
}

// execFault is the error of an exec that could not be started.
func (ctr *container) execFault(err error) error {
	if isGone(err) || ctr.endsSoonTask() {
		return fault(shimapi.KindNotRunning, "container %s has ended", ctr.id)
	}
	return startFault(fault(shimapi.KindStartFailed, "%s", plainRuntimeError(err)))
}

// endsSoonTask reports whether the container has ended. An exec may fail shortly before.
func (ctr *container) endsSoonTask() bool {
	select {
	case <-ctr.done:
		return true
	case <-time.After(execPatience):
		return !ctr.process.alive()
	}
}

// copy passes the streams on until both sides have ended.
func (s *taskSession) copy() {
	go func() {
		_, _ = io.Copy(s.in, s.files[0]) // either side may have ended
		_ = s.in.Close()
		ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
		defer cancel()
		_ = s.process.CloseInput(ctx) // it may have ended
	}()
	for i, from := range s.outs {
		to := s.files[i+1]
		s.copies.Go(func() {
			_, err := io.Copy(to, from)
			switch {
			case errors.Is(err, os.ErrDeadlineExceeded):
				copyRest(to, from)
			case err != nil:
				_, _ = io.Copy(io.Discard, from) // the client is gone; the process must not wait for it
			}
		})
	}
}

// copyRest copies what is in a fifo at the end of an exec and was not read in time, because
// the client is slow. It does not wait for more, of which a child of the process might
// write for ever.
func copyRest(to io.Writer, from *os.File) {
	raw, err := from.SyscallConn()
	if err != nil || from.SetReadDeadline(time.Time{}) != nil {
		return
	}
	buf := make([]byte, 64<<10) // as much as a pipe holds
	n := 0
	if err := raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), buf)
		return true
	}); err != nil || n <= 0 {
		return
	}
	_, _ = to.Write(buf[:n]) // the client may be gone
}

// waitExec returns how the process ended. It is killed when the client hangs up or the
// timeout has passed.
func (ctr *container) waitExec(s *taskSession, gone <-chan struct{}, timeout time.Duration) (shimapi.ExitStatus, error) {
	type result struct {
		status shimapi.ExitStatus
		err    error
	}
	exited := make(chan result, 1)
	go func() {
		status, err := s.process.Wait(context.Background())
		exited <- result{status, err}
	}()
	late, stop := expiry(timeout)
	defer stop()
	timedOut := false
	var r result
	select {
	case r = <-exited:
	case <-late:
		timedOut = true
		r = awaitKilled(ctr, s, exited)
	case <-gone:
		r = awaitKilled(ctr, s, exited)
	}
	s.drain()
	r.status.TimedOut = timedOut
	return r.status, r.err
}

// awaitKilled kills the process of an exec and waits for its end, not for ever.
func awaitKilled[T any](ctr *container, s *taskSession, exited <-chan T) (r T) {
	ctr.endExec(s)
	select {
	case r = <-exited:
	case <-time.After(stopGrace):
		slog.Error("exec does not end by SIGKILL", "container", ctr.id)
	}
	return r
}

func (ctr *container) endExec(s *taskSession) {
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	if err := s.process.Kill(ctx, int(unix.SIGKILL), true); err != nil && !isGone(err) {
		slog.Error("exec not killed", "container", ctr.id, "error", err)
	}
	if s.group == nil {
		return
	}
	if err := s.group.killAll(); err != nil {
		slog.Error("exec left processes", "container", ctr.id, "error", err)
	}
}

// forgetExec makes the shim forget the process of an exec.
func (ctr *container) forgetExec(s *taskSession) {
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	if err := s.process.Delete(ctx); err != nil && !isGone(err) && !isClosed(ctr.done) {
		slog.Warn("exec not forgotten by the foreign shim", "container", ctr.id, "error", err)
	}
}

// drain waits for the end of the output, bounded in case a child of the process holds it.
func (s *taskSession) drain() {
	for _, f := range s.outs {
		_ = f.SetReadDeadline(time.Now().Add(execPatience))
	}
	s.copies.Wait()
}

// close ends the copies and closes all files.
func (s *taskSession) close() {
	s.fifos.release()
	if s.group != nil {
		s.group.remove()
	}
	for _, f := range append(append([]*os.File{s.in}, s.outs...), s.files...) {
		if f != nil {
			_ = f.Close() // the peers have their own
		}
	}
	s.copies.Wait()
}

// socketPair makes the two ends of a stream, ours of them in Go's poller.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs = os.NewFile(uintptr(fds[1]), "terminal")
	if ours, err = shimapi.Pollable(os.NewFile(uintptr(fds[0]), "terminal")); err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return ours, theirs, nil
}

// signalSession sends a signal to an exec by the foreign shim.
func (ctr *container) signalSession(x *session, sig syscall.Signal, all bool) error {
	if all && x.group != nil {
		if sig == unix.SIGKILL {
			return x.group.killAll()
		}
		return cgroup.Signal(x.group.dir, sig)
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	err := x.task.Kill(ctx, int(sig), all)
	if isGone(err) {
		return fault(shimapi.KindNotRunning, "the exec has ended")
	}
	return err
}

// resizeTask sets the size of a terminal, which the foreign shim has.
func (ctr *container) resizeTask(r shimapi.ResizeRequest) error {
	var of TaskStreams = ctr.task
	if r.ExecID != "" {
		x := ctr.sessions.started(r.ExecID)
		if x == nil {
			return fault(shimapi.KindNotFound, "container %s has no exec %s", ctr.id, r.ExecID)
		}
		of = x.task
	} else if !ctr.io.terminal {
		return fault(shimapi.KindInvalid, "container %s has no terminal", r.ID)
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	return of.Resize(ctx, r.Width, r.Height)
}
