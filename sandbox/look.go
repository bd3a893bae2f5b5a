package sandbox

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// lookTimeout bounds a look at a path of the host. A server that answers at all does so
// in much less; the kubelet gives up on a container after two minutes.
const lookTimeout = 20 * time.Second

// looks are system calls on paths of the host, which block for ever where the server of
// a FUSE or NFS file system is dead. Nothing can end such a call, so it runs on a thread
// of its own that is left behind; for each path there is one at most, however often
// its container is tried again.
type looks struct {
	mu   sync.Mutex
	busy map[string]chan struct{} // closed when the call on that path has ended
}

// enter waits until no call on path runs. The function it gives ends the call.
func (l *looks) enter(ctx context.Context, path string) (leave func(), err error) {
	for {
		l.mu.Lock()
		busy := l.busy[path]
		if busy == nil {
			busy = make(chan struct{})
			if l.busy == nil {
				l.busy = make(map[string]chan struct{})
			}
			l.busy[path] = busy
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				delete(l.busy, path)
				close(busy)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// lookAt runs f, which touches path and keeps nothing that has to be released. When
// ctx ends or lookTimeout is over before f does, the error names the path, and what f
// gives later is dropped.
func lookAt[T any](ctx context.Context, l *looks, path string, f func() (T, error)) (T, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lookTimeout, failed(ErrTimeout, "no answer within %v", lookTimeout))
	defer cancel()
	return workAt(ctx, l, path, f)
}

// workAt is lookAt for what may take as long as ctx lasts.
func workAt[T any](ctx context.Context, l *looks, path string, f func() (T, error)) (T, error) {
	type result struct {
		got T
		err error
	}
	var none T
	leave, err := l.enter(ctx, path)
	if err != nil {
		return none, stuckAt(path, err)
	}
	res := make(chan result, 1)
	go func() {
		defer leave()
		got, err := f()
		res <- result{got, err}
	}()
	select {
	case r := <-res:
		return r.got, r.err
	case <-ctx.Done():
		return none, stuckAt(path, context.Cause(ctx))
	}
}

func stuckAt(path string, cause error) error {
	return fmt.Errorf("the file system of %.256q does not answer, such as one of FUSE or NFS without its server: %w", path, cause)
}
