package shims

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// ExecSession is a process running in a container. Close it.
type ExecSession struct {
	// Pid is the process, in the host's numbering.
	Pid int
	// Console is the master of the process's terminal, nil without one. It is
	// the session's: Close closes it.
	Console *os.File

	id, execID string
	shim       *Shim
	conn       *connection
	ended      chan struct{} // closed when status and err are set
	status     shimapi.ExitStatus
	err        error
}

// Exec starts a process in a running container. files are its stdin, stdout and
// stderr, which stay the caller's; none with a terminal. ctx bounds the start only.
func (sh *Shim) Exec(ctx context.Context, r *shimapi.ExecRequest, files []*os.File) (_ *ExecSession, err error) {
	ctx, end := traced(ctx, shimapi.MethodExec)
	defer func() { end(err) }()
	conn := sh.open(ctx, shimapi.MethodExec, r, files...)
	var started shimapi.ExecStarted
	received, err := conn.receive(ctx, &started)
	if err != nil {
		conn.close()
		return nil, err
	}
	x := &ExecSession{Pid: started.PID, id: r.ID, execID: r.ExecID, shim: sh, conn: conn, ended: make(chan struct{})}
	if r.Terminal && len(received) == 1 {
		if x.Console, err = shimapi.Pollable(received[0]); err != nil {
			conn.close()
			return nil, err
		}
	} else {
		shimapi.CloseFiles(received)
	}
	conn.detach()
	go x.await()
	return x, nil
}

// await returns when the process has ended, or its connection.
func (x *ExecSession) await() {
	defer close(x.ended)
	_, x.err = x.conn.receive(context.Background(), &x.status)
}

// Wait returns how the process ended. If ctx ends first, Wait returns its error, and the
// process runs on until Close.
func (x *ExecSession) Wait(ctx context.Context) (shimapi.ExitStatus, error) {
	select {
	case <-x.ended:
		return x.status, x.err
	case <-ctx.Done():
		return shimapi.ExitStatus{}, ctx.Err()
	}
}

// Kill sends SIGKILL to the process and to all that it has started. Wait returns how it
// ended.
func (x *ExecSession) Kill() error {
	r := &shimapi.KillRequest{ID: x.id, ExecID: x.execID, Signal: int(unix.SIGKILL), All: true}
	return x.shim.Kill(context.Background(), r)
}

// Resize sets the size of the session's terminal.
func (x *ExecSession) Resize(width, height uint16) error {
	if x.Console == nil {
		return errors.New("resize: the session has no terminal")
	}
	raw, err := x.Console.SyscallConn()
	if err != nil {
		return err
	}
	size := &unix.Winsize{Row: height, Col: width}
	cerr := raw.Control(func(fd uintptr) { err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		// It is a socket: a foreign shim has the terminal.
		r := &shimapi.ResizeRequest{ID: x.id, ExecID: x.execID, Width: width, Height: height}
		return x.shim.Resize(context.Background(), r)
	}
	return errors.Join(err, cerr)
}

// Close releases the session. A process that still runs is killed, with all that it has
// started.
func (x *ExecSession) Close() {
	x.conn.close()
	<-x.ended
	if x.Console != nil {
		_ = x.Console.Close() // nothing is buffered
	}
}

// AttachSession is a client's share of a container's streams. Close it.
type AttachSession struct {
	conn  *connection
	ended chan struct{}
	err   error
}

// Attach connects files with the streams of a running container: one file per true flag, in
// the order stdin, stdout, stderr. They stay the caller's. ctx bounds the connecting only.
func (sh *Shim) Attach(ctx context.Context, r *shimapi.AttachRequest, files []*os.File) (*AttachSession, error) {
	conn := sh.open(ctx, shimapi.MethodAttach, r, files...)
	if _, err := conn.receive(ctx, nil); err != nil {
		conn.close()
		return nil, err
	}
	conn.detach()
	a := &AttachSession{conn: conn, ended: make(chan struct{})}
	go func() {
		defer close(a.ended)
		_, a.err = conn.receive(context.Background(), nil)
	}()
	return a, nil
}

// Wait returns nil when the container has ended.
func (a *AttachSession) Wait(ctx context.Context) error {
	select {
	case <-a.ended:
		return a.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close disconnects from the container's streams.
func (a *AttachSession) Close() {
	a.conn.close()
	<-a.ended
}
