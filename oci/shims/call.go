package shims

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// ErrStuck is wrapped by a call that a living shim did not answer in time.
var ErrStuck = errors.New("shim does not answer")

// answerPatience bounds the calls that a shim answers within milliseconds, or within
// seconds where it kills and waits, so that no verb hangs on one shim for ever. It is a
// variable for the tests.
var answerPatience = 60 * time.Second

// greetPatience bounds the question whether a shim still answers, before it is given
// another pod.
const greetPatience = 2 * time.Second

// call makes one round trip, within answerPatience. It is for methods that may be
// repeated: if the shim dies during the call, its replacement is asked again.
func (sh *Shim) call(ctx context.Context, method string, request, response any) error {
	for p := sh.live(ctx); ; {
		bounded, cancel := context.WithTimeoutCause(ctx, answerPatience, ErrStuck)
		err := p.send(bounded, method, request).answer(bounded, response)
		cancel()
		if err = p.noteAnswer(err, answerPatience); !errors.Is(err, ErrGone) {
			return err
		}
		if p = p.awaitReplacement(ctx); p == nil {
			return err
		}
	}
}

// open begins a call that must not be repeated. If the process that serves the shim
// dies before it has the whole request, the replacement gets it.
func (sh *Shim) open(ctx context.Context, method string, request any, files ...*os.File) *connection {
	for p := sh.live(ctx); ; {
		c := p.send(ctx, method, request, files...)
		if !errors.Is(c.err, ErrGone) {
			return c
		}
		if p = p.awaitReplacement(ctx); p == nil {
			return c
		}
	}
}

// connection is one call under way. It ends with the context it was begun with, unless
// it is detached. As with [database/sql.Row], an error of send is kept and returned by
// the next receive or answer.
type connection struct {
	process *process
	conn    *net.UnixConn // nil: err is set
	stop    func() bool
	err     error
}

// send dials this process, no other, and sends one request. files stay the caller's.
func (p *process) send(ctx context.Context, method string, request any, files ...*os.File) *connection {
	c := &connection{process: p}
	if p.isGone() {
		c.err = fmt.Errorf("shim %s: %w", p.shim.id, ErrGone)
		return c
	}
	body, err := json.Marshal(request)
	if err != nil {
		c.err = fmt.Errorf("encode %s: %w", method, err)
		return c
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(p.shim.dir, shimapi.SocketName))
	if err != nil {
		c.err = p.explain(ctx, err)
		return c
	}
	c.conn = conn.(*net.UnixConn)
	c.stop = context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	if err := shimapi.WriteFrame(c.conn, shimapi.Request{Method: method, Body: body}, files...); err != nil {
		c.close()
		c.err = p.explain(ctx, err)
	}
	return c
}

// answer reads the one response of a call into response, which may be nil, and closes
// the connection.
func (c *connection) answer(ctx context.Context, response any) error {
	defer c.close()
	files, err := c.receive(ctx, response)
	shimapi.CloseFiles(files)
	return err
}

// receive reads the next response into response, which may be nil. The files that came
// with it are the caller's.
func (c *connection) receive(ctx context.Context, response any) ([]*os.File, error) {
	if c.err != nil {
		return nil, c.err
	}
	var r shimapi.Response
	files, err := shimapi.ReadFrame(c.conn, &r)
	if err != nil {
		return nil, c.process.explain(ctx, err)
	}
	if err := c.take(&r, files, response); err != nil {
		return nil, err
	}
	return files, nil
}

// next is receive for a connection that a living shim may close, and without files.
func (c *connection) next(response any) error {
	if c.err != nil {
		return c.err
	}
	var r shimapi.Response
	files, err := shimapi.ReadFrame(c.conn, &r)
	if err != nil {
		return err
	}
	shimapi.CloseFiles(files)
	return c.take(&r, nil, response)
}

// take reads a response into response, which may be nil; after an error the files that
// came with it are closed.
func (c *connection) take(r *shimapi.Response, files []*os.File, response any) error {
	if r.Error != nil {
		shimapi.CloseFiles(files)
		return r.Error
	}
	if response != nil && len(r.Body) > 0 {
		if err := json.Unmarshal(r.Body, response); err != nil {
			shimapi.CloseFiles(files)
			return fmt.Errorf("answer of shim %s: %w", c.process.shim.id, err)
		}
	}
	return nil
}

// detach makes the connection outlive the context it was begun with.
func (c *connection) detach() { c.stop() }

// close ends the call. Closing twice, or after an error of send, does nothing.
func (c *connection) close() {
	if c.conn != nil {
		c.stop()
		_ = c.conn.Close() // for the shim this is the end of the call
	}
}

// explain turns the error of a broken connection into its cause: we closed it
// ourselves, the caller gave up, or the shim is gone.
func (p *process) explain(ctx context.Context, err error) error {
	if ctx.Err() == nil && isHangup(err) && p.isFollowed() {
		p.waitIfDying(ctx, dyingPatience)
	}
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case p.isGone():
		err = ErrGone
	}
	return fmt.Errorf("shim %s: %w", p.shim.id, err)
}

// isHangup reports whether an error is one that the end of the shim causes.
func isHangup(err error) bool {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, unix.ECONNRESET, unix.EPIPE, unix.ECONNREFUSED, unix.ENOENT} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// noteAnswer marks a process that let a call wait for longer than patience, and clears
// the mark of one that answered. err is the result of that call.
func (p *process) noteAnswer(err error, patience time.Duration) error {
	switch {
	case err == nil, errors.As(err, new(*shimapi.Error)):
		p.stuck.Store(false)
	case errors.Is(err, ErrStuck):
		p.stuck.Store(true)
		return fmt.Errorf("shim %s, pid %d, has not answered for %s; see its state in /proc/%d/status, and end it if it is past help, for another to take over: %w", p.shim.id, p.pid, patience, p.pid, ErrStuck)
	}
	return err
}

// reserveAnswering is reserve for a shim that answers; nil: there is none.
func (s *Set) reserveAnswering(ctx context.Context) *Shim {
	for {
		sh := s.reserve()
		if sh == nil {
			return nil
		}
		p := sh.live(ctx)
		bounded, cancel := context.WithTimeoutCause(ctx, greetPatience, ErrStuck)
		err := p.send(bounded, shimapi.MethodHello, struct{}{}).answer(bounded, nil)
		cancel()
		if !errors.Is(p.noteAnswer(err, greetPatience), ErrStuck) {
			return sh // any other error is for the caller's next call to meet
		}
		sh.Release()
	}
}
