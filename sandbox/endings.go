package sandbox

import (
	"context"
	"sync"
)

// endTogether is for how many pods something is ended side by side. An end may start a
// program of a foreign runtime.
const endTogether = 16

// endings ends in the background what has lost its shim, or its record: a process in
// uninterruptible sleep, or a foreign runtime that hangs, takes up to a minute each, and
// nobody is to wait for another pod's. Ends of one pod are carried out one at a time, in the
// order in which they were added. A verb may end the same at the same time, see [teardown].
type endings struct {
	slots chan struct{} // endTogether of them

	mu   sync.Mutex
	last map[string]chan struct{} // by pod: closed when the end that was added last is done
}

func newEndings() *endings {
	return &endings{slots: make(chan struct{}, endTogether), last: make(map[string]chan struct{})}
}

// add carries out an end of something of a pod, unless ctx ends first: the next daemon finds
// what is left. done is closed when there is nothing more to wait for.
func (e *endings) add(ctx context.Context, pod string, end func(context.Context)) (done <-chan struct{}) {
	own := make(chan struct{})
	e.mu.Lock()
	before := e.last[pod]
	e.last[pod] = own
	e.mu.Unlock()
	go func() {
		defer e.leave(pod, own)
		if before != nil {
			<-before // it ends with ctx, too
		}
		select {
		case e.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		defer func() { <-e.slots }()
		if ctx.Err() == nil {
			end(ctx)
		}
	}()
	return own
}

// leave lets the next end of the pod begin.
func (e *endings) leave(pod string, own chan struct{}) {
	close(own)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.last[pod] == own {
		delete(e.last, pod)
	}
}
