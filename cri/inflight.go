package cri

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

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"
)

// undoPatience is how long calls that were cut short may take to undo what they
// had begun: what they do it with is closed next.
const undoPatience = 5 * time.Second

// pullGrace is how long a pull goes on without a client. A client that was cut off
// or restarted is back before: the kubelet tries a failed pull again after 10 s.
const pullGrace = 30 * time.Second

// flights are the mutating calls that run, by name. A call runs on after its
// client gave up; one that comes with the same name and request joins it. What it
// changes has an end of its own, except for a pull, which goes on as long as the
// registry likes: one that no client has wanted for a while is cancelled.
type flights struct {
	base context.Context // ends every call; done only when [flights.drain] loses patience
	stop context.CancelCauseFunc

	mu    sync.Mutex
	byKey map[string]*flight
	idle  chan struct{} // closed when draining and the map is empty; nil before
}

type flight struct {
	request string // digest
	cancel  context.CancelCauseFunc
	done    chan struct{}
	result  string // an ID or image reference; valid once done is closed
	err     error

	// Guarded by flights.mu.
	clients   int
	grace     *time.Timer // runs while a call that has a grace is without clients
	abandoned bool        // cancelled for want of clients
}

var (
	errStopping  = errors.New("berth is stopping")
	errAbandoned = fmt.Errorf("no client has waited for it for %v", pullGrace)
)

func stopping() error {
	return status.Error(codes.Unavailable, errStopping.Error()+"; retry when it is up again")
}

func newFlights() *flights {
	base, stop := context.WithCancelCause(context.Background())
	return &flights{base: base, stop: stop, byKey: make(map[string]*flight)}
}

// do runs work under key and waits for it, or for ctx. request tells apart calls
// of one name that ask for different things. A grace other than 0 is how long the
// work goes on after its last client gave up.
func (f *flights) do(ctx context.Context, key, request string, grace time.Duration, work func(context.Context) (string, error)) (string, error) {
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		fl, err := f.join(ctx, key, request, work)
		if err != nil {
			return "", err
		}
		select {
		case <-fl.done:
		case <-ctx.Done():
			f.leave(ctx, key, fl, grace)
			return "", ctx.Err()
		}
		if !f.wasAbandoned(fl) { // or it was on its way out when this client came
			return fl.result, fl.err
		}
	}
}

// leave takes a client that gave up off the call.
func (f *flights) leave(ctx context.Context, key string, fl *flight, grace time.Duration) {
	log := klog.FromContext(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.clients--; fl.clients > 0 || grace == 0 {
		log.Info("The client gave up; the call goes on and a retry joins it", "call", key)
		return
	}
	log.Info("The last client gave up; a retry within the grace joins the call", "call", key, "grace", grace)
	var timer *time.Timer
	timer = time.AfterFunc(grace, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if fl.clients > 0 || fl.grace != timer { // a client came, and maybe left again
			return
		}
		fl.abandoned = true
		log.Info("No client came back; the call is cancelled", "call", key)
		fl.cancel(errAbandoned)
	})
	fl.grace = timer
}

func (f *flights) wasAbandoned(fl *flight) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fl.abandoned
}

// change is do for calls whose answer is empty.
func (f *flights) change(ctx context.Context, key string, req proto.Message, work func(context.Context) error) error {
	_, err := f.do(ctx, key, digest(req), 0, func(ctx context.Context) (string, error) { return "", work(ctx) })
	return err
}

func (f *flights) join(ctx context.Context, key, request string, work func(context.Context) (string, error)) (*flight, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.idle != nil {
		return nil, stopping()
	}
	if fl, ok := f.byKey[key]; ok {
		if fl.request != request {
			return nil, status.Errorf(codes.Aborted, "%s runs already with another configuration; retry when it has finished", key)
		}
		fl.clients++
		if fl.grace != nil {
			fl.grace.Stop()
		}
		return fl, nil
	}
	fl := &flight{request: request, clients: 1, done: make(chan struct{})}
	ctx, fl.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	f.byKey[key] = fl
	go f.fly(ctx, key, fl, work)
	return fl, nil
}

// fly ends when work returns; work obeys its context, which drain and the end of a
// grace cancel.
func (f *flights) fly(ctx context.Context, key string, fl *flight, work func(context.Context) (string, error)) {
	unlink := context.AfterFunc(f.base, func() { fl.cancel(context.Cause(f.base)) })
	defer func() {
		if p := recover(); p != nil {
			fl.err = panicked(ctx, p)
		}
		unlink()
		fl.cancel(nil)
		f.land(key, fl)
	}()
	fl.result, fl.err = work(ctx)
}

// panicked logs a panic with its stack and is the error the client sees.
func panicked(ctx context.Context, p any) error {
	klog.FromContext(ctx).Error(fmt.Errorf("%v", p), "A handler panicked", "stack", string(debug.Stack()))
	return status.Error(codes.Internal, "berth has a bug: the call panicked; the log has the stack")
}

func (f *flights) land(key string, fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.byKey, key)
	if fl.grace != nil {
		fl.grace.Stop()
	}
	close(fl.done)
	if f.idle != nil && len(f.byKey) == 0 {
		close(f.idle)
	}
}

// drain lets no call start any more and waits for those that run. When ctx ends
// first they are cancelled, and waited for a little longer; the error names them.
// Only the first call counts.
func (f *flights) drain(ctx context.Context) error {
	f.mu.Lock()
	if f.idle != nil {
		f.mu.Unlock()
		return nil
	}
	f.idle = make(chan struct{})
	if len(f.byKey) == 0 {
		close(f.idle)
	}
	idle := f.idle
	f.mu.Unlock()
	defer f.stop(errStopping)
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	err := fmt.Errorf("calls cut short: %s: %w", strings.Join(f.keys(), ", "), ctx.Err())
	f.stop(errStopping)
	select {
	case <-idle:
		return err
	case <-time.After(undoPatience):
		return fmt.Errorf("%w; %v later there are still %s", err, undoPatience, strings.Join(f.keys(), ", "))
	}
}

func (f *flights) keys() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	keys := make([]string, 0, len(f.byKey))
	for k := range f.byKey {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// digest identifies a request without keeping it: it may hold a password.
func digest(m proto.Message) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		// Only invalid UTF-8 fails, which gRPC has already refused.
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
