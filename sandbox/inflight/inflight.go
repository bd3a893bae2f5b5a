package inflight

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"
)

var (
	// ErrStopping ends calls, and refuses new ones, when the daemon stops.
	ErrStopping = errors.New("berth is stopping")
	// ErrBusy: a call of that name runs with another request.
	ErrBusy = errors.New("runs already with another configuration; retry when it has finished")
	// ErrPanicked: the call has met a bug.
	ErrPanicked = errors.New("berth has a bug: the call panicked; the log has the stack")
)

// undoTime is how long calls that were cut short may take to undo what they had begun:
// what they do it with is closed next.
const undoTime = 5 * time.Second

// Calls are the calls that run. Its methods may be called from any goroutine.
type Calls struct {
	base context.Context // ends every call; done only when Drain gives up waiting
	stop context.CancelCauseFunc

	mu     sync.Mutex
	byName map[string]*Running
	idle   chan struct{} // closed when draining and the map is empty; nil before
}

// Call says what is to be done, so that another such call can be told from it.
type Call struct {
	Name    string        // of the verb and its object
	Request string        // see [Digest]
	Grace   time.Duration // for how long it goes on without a client; 0: to its end
}

// Running is a call that has begun. Who began it gives it its result and ends it, all
// its clients wait for that.
type Running struct {
	Call
	calls  *Calls
	ctx    context.Context // the first client's, but for its end
	cancel context.CancelCauseFunc
	unlink func() bool // from the end of all calls
	done   chan struct{}
	result string // valid once done is closed
	err    error

	// Guarded by Calls.mu.
	clients   int
	timer     *time.Timer // runs while a call that has a grace is without clients
	abandoned bool        // cancelled because it was without clients
}

// New makes Calls of which none runs.
func New() *Calls {
	base, stop := context.WithCancelCause(context.Background())
	return &Calls{base: base, stop: stop, byName: make(map[string]*Running)}
}

// Lifetime ends when [Calls.Drain] has ended, with [ErrStopping] as its cause.
func (c *Calls) Lifetime() context.Context { return c.base }

// Do runs work as the call, or joins the one that runs, and waits for its result, which
// is an ID or a name, or for the end of ctx.
func (c *Calls) Do(ctx context.Context, call Call, work func(context.Context) (string, error)) (string, error) {
	r, first, err := c.Begin(ctx, call)
	if err != nil {
		return "", err
	}
	if first {
		go func() { // ends when work returns, which obeys its context
			defer r.End()
			r.Give(work(r.Context()))
		}()
	}
	return r.Wait(ctx)
}

// Begin finds the call that runs, or enters a new one; then first is true, and the
// caller has to do the work on a goroutine that begins with a deferred [Running.End].
// Every caller then waits with [Running.Wait]. It is [Calls.Do] for a caller whose work is
// one step, and reads better in place than as a function that is passed on.
func (c *Calls) Begin(ctx context.Context, call Call) (r *Running, first bool, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		r, first, ending, err := c.join(ctx, call)
		if !ending {
			return r, first, err
		}
		select { // it is being cancelled, and this call is to be another
		case <-r.done:
		case <-ctx.Done():
		}
	}
}

// Context is that of the work. It has the values of the first client's context and ends
// when nobody wants the result any more, see [Call.Grace], or the daemon stops.
func (r *Running) Context() context.Context { return r.ctx }

// Give sets the result, which is an ID or a name. It comes before End, by the goroutine
// that does the work.
func (r *Running) Give(result string, err error) { r.result, r.err = result, err }

// Wait waits for the result or for the end of ctx.
func (r *Running) Wait(ctx context.Context) (string, error) {
	select {
	case <-r.done:
		return r.result, r.err
	case <-ctx.Done():
		r.calls.leave(ctx, r)
		return "", ctx.Err()
	}
}

// join finds the call that runs, or enters a new one. One that was abandoned is ending
// and gets no client more.
func (c *Calls) join(ctx context.Context, call Call) (r *Running, first, ending bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle != nil {
		return nil, false, false, fmt.Errorf("%w; retry when it is up again", ErrStopping)
	}
	if r := c.byName[call.Name]; r != nil {
		if r.Request != call.Request {
			return nil, false, false, fmt.Errorf("%s %w", call.Name, ErrBusy)
		}
		if r.abandoned {
			return r, false, true, nil
		}
		r.clients++
		if r.timer != nil {
			r.timer.Stop()
		}
		return r, false, false, nil
	}
	r = &Running{Call: call, calls: c, clients: 1, done: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	r.unlink = context.AfterFunc(c.base, func() { r.cancel(context.Cause(c.base)) })
	c.byName[call.Name] = r
	return r, true, false, nil
}

// leave takes a client that gave up off the call.
func (c *Calls) leave(ctx context.Context, r *Running) {
	log := klog.FromContext(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.clients--; r.clients > 0 || r.Grace == 0 {
		log.Info("The client gave up; the call goes on and a retry joins it", "call", r.Name)
		return
	}
	log.Info("The last client gave up; a retry within the grace joins the call", "call", r.Name, "grace", r.Grace)
	var timer *time.Timer
	timer = time.AfterFunc(r.Grace, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if r.clients > 0 || r.timer != timer { // a client came, and maybe left again
			return
		}
		r.abandoned = true
		log.Info("No client came back; the call is cancelled", "call", r.Name)
		r.cancel(fmt.Errorf("no client has waited for it for %v", r.Grace))
	})
	r.timer = timer
}

// End ends the call. It is deferred, and called in no other way, by the goroutine that
// does the work, so that it can make an error of a panic.
func (r *Running) End() {
	if p := recover(); p != nil {
		r.err = Panicked(r.ctx, p)
	}
	r.unlink()
	c := r.calls
	c.mu.Lock()
	defer c.mu.Unlock()
	r.cancel(nil)
	delete(c.byName, r.Name)
	if r.timer != nil {
		r.timer.Stop()
	}
	close(r.done)
	if c.idle != nil && len(c.byName) == 0 {
		close(c.idle)
	}
}

// Panicked logs a panic with its stack and is the error that the client gets. It is
// called by the deferred function that recovered p.
func Panicked(ctx context.Context, p any) error {
	klog.FromContext(ctx).Error(fmt.Errorf("%v", p), "A handler panicked", "stack", string(debug.Stack()))
	return ErrPanicked
}

// Drain lets no call begin any more and waits for those that run. When ctx ends
// first they are cancelled, and waited for a little longer; the error names them.
// Only the first call counts.
func (c *Calls) Drain(ctx context.Context) error {
	c.mu.Lock()
	if c.idle != nil {
		c.mu.Unlock()
		return nil
	}
	c.idle = make(chan struct{})
	if len(c.byName) == 0 {
		close(c.idle)
	}
	idle := c.idle
	c.mu.Unlock()
	defer c.stop(ErrStopping)
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	err := fmt.Errorf("calls cut short: %s: %w", strings.Join(c.Names(), ", "), ctx.Err())
	c.stop(ErrStopping)
	select {
	case <-idle:
		return err
	case <-time.After(undoTime):
		return fmt.Errorf("%w; %v later there are still %s", err, undoTime, strings.Join(c.Names(), ", "))
	}
}

// Names are the names of the calls that run, in order.
func (c *Calls) Names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := make([]string, 0, len(c.byName))
	for name := range c.byName {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Digest identifies a request without keeping it: it may hold a password.
func Digest(m proto.Message) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		// Only invalid UTF-8 fails, which gRPC has already refused.
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
