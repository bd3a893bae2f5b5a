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

// flights are the mutating calls that run, by name. A call runs on after its
// client gave up; one that comes with the same name and request joins it.
type flights struct {
	base context.Context // ends every call; done only when [flights.drain] loses patience
	stop context.CancelCauseFunc

	mu    sync.Mutex
	byKey map[string]*flight
	idle  chan struct{} // closed when draining and the map is empty; nil before
}

type flight struct {
	request string // digest
	done    chan struct{}
	result  string // an ID or image reference; valid once done is closed
	err     error
}

var errStopping = errors.New("berth is stopping")

func stopping() error {
	return status.Error(codes.Unavailable, errStopping.Error()+"; retry when it is up again")
}

func newFlights() *flights {
	base, stop := context.WithCancelCause(context.Background())
	return &flights{base: base, stop: stop, byKey: make(map[string]*flight)}
}

// do runs work under key and waits for it, or for ctx. request tells apart calls
// of one name that ask for different things.
func (f *flights) do(ctx context.Context, key, request string, work func(context.Context) (string, error)) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	fl, err := f.join(ctx, key, request, work)
	if err != nil {
		return "", err
	}
	select {
	case <-fl.done:
		return fl.result, fl.err
	case <-ctx.Done():
		klog.FromContext(ctx).Info("The client gave up; the call goes on and a retry joins it", "call", key)
		return "", ctx.Err()
	}
}

// change is do for calls whose answer is empty.
func (f *flights) change(ctx context.Context, key string, req proto.Message, work func(context.Context) error) error {
	_, err := f.do(ctx, key, digest(req), func(ctx context.Context) (string, error) { return "", work(ctx) })
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
		return fl, nil
	}
	fl := &flight{request: request, done: make(chan struct{})}
	f.byKey[key] = fl
	go f.fly(context.WithoutCancel(ctx), key, fl, work)
	return fl, nil
}

// fly ends when work returns; work obeys its context, which drain cancels.
func (f *flights) fly(ctx context.Context, key string, fl *flight, work func(context.Context) (string, error)) {
	ctx, cancel := context.WithCancelCause(ctx)
	unlink := context.AfterFunc(f.base, func() { cancel(context.Cause(f.base)) })
	defer func() {
		if p := recover(); p != nil {
			fl.err = panicked(ctx, p)
		}
		unlink()
		cancel(nil)
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
