package shims

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/oci/tracing"
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
func (sh *Shim) call(ctx context.Context, method string, request, response any) (err error) {
	ctx, end := traced(ctx, method)
	defer func() { end(err) }()
	for p := sh.live(ctx); ; {
		bounded, cancel := context.WithTimeoutCause(ctx, answerPatience, ErrStuck)
		c := p.dial(bounded)
		c.WriteRequest(method, request)
		err := c.answer(bounded, response)
		cancel()
		if err = p.noteAnswer(err, answerPatience); !errors.Is(err, ErrGone) {
			return err
		}
		next := p.awaitReplacement(ctx)
		if next == nil {
			return p.unreplaced(err)
		}
		p = next
	}
}

// open begins a call that must not be repeated. If the process that serves the shim
// dies before it has the whole request, the replacement gets it.
func (sh *Shim) open(ctx context.Context, method string, request any, files ...*os.File) *connection {
	for p := sh.live(ctx); ; {
		c := p.dial(ctx)
		c.WriteRequest(method, request, files...)
		if !errors.Is(c.failure(ctx), ErrGone) {
			return c
		}
		c.close()
		next := p.awaitReplacement(ctx)
		if next == nil {
			c.cause = p.unreplaced(c.cause)
			return c
		}
		p = next
	}
}

// connection is one call of a process. It ends with the context that it was made with,
// unless it is detached.
type connection struct {
	*shimapi.Conn
	process *process
	stop    func() bool // ends the watch for the end of the context
	cause   error       // of the connection's failure, once explained
}

// dial connects to this process, no other. The caller writes the request and reads the
// response; an error of dial is returned by those.
func (p *process) dial(ctx context.Context) *connection {
	c := &connection{process: p}
	if p.isGone() {
		c.Conn = shimapi.Failed(ErrGone)
	} else {
		c.Conn = shimapi.Dial(ctx, filepath.Join(p.shim.dir, shimapi.SocketName))
	}
	c.stop = context.AfterFunc(ctx, c.Interrupt)
	if tracing.Active(ctx) {
		c.WantStages()
	}
	return c
}

// traced begins the step of one call.
func traced(ctx context.Context, method string) (context.Context, func(error)) {
	if !tracing.Active(ctx) {
		return ctx, func(error) {}
	}
	return tracing.Begin(ctx, "shim "+method)
}

// report passes on what the shim has done for the call.
func (c *connection) report(ctx context.Context) {
	if !tracing.Active(ctx) {
		return
	}
	var stages []tracing.Stage
	for _, s := range c.Stages() {
		stages = append(stages, tracing.Stage(s))
	}
	tracing.Report(ctx, stages)
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
	files, refusal := c.ReadResponse(response)
	c.report(ctx)
	if err := c.failure(ctx); err != nil {
		return nil, err
	}
	return files, refusal
}

// detach makes the connection outlive the context it was made with.
func (c *connection) detach() { c.stop() }

// close ends the call. It may be repeated.
func (c *connection) close() {
	c.stop()
	c.Close()
}

// failure returns why the connection has failed; nil: it has not.
func (c *connection) failure(ctx context.Context) error {
	if c.cause == nil && c.Err() != nil {
		c.cause = c.process.explain(ctx, c.Err())
	}
	return c.cause
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
		advice := "end it if it is past help, for another to take over"
		if p.unasked.Load() {
			advice = "let it go on: it did not answer when berthd started either, so no other can take over, and its end is that of its containers"
		}
		return fmt.Errorf("shim %s, pid %d, has not answered for %s; see its state in /proc/%d/status, and %s: %w", p.shim.id, p.pid, patience, p.pid, advice, ErrStuck)
	}
	return err
}

// reserveAnswering is reserve for a shim that answers; nil: there is none.
func (s *Set) reserveAnswering(ctx context.Context, foreign bool) *Shim {
	for {
		sh := s.reserve(foreign)
		if sh == nil {
			return nil
		}
		p := sh.live(ctx)
		bounded, cancel := context.WithTimeoutCause(ctx, greetPatience, ErrStuck)
		c := p.dial(bounded)
		c.WriteRequest(shimapi.MethodHello, struct{}{})
		err := c.answer(bounded, nil)
		cancel()
		if !errors.Is(p.noteAnswer(err, greetPatience), ErrStuck) {
			return sh // any other error is for the caller's next call to meet
		}
		sh.Release()
	}
}
