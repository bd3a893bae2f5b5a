package image

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"

	"berth/image/registry"
)

// pulls are the pulls in progress. Callers that ask for the same share one.
type pulls struct {
	bg *background

	mu    sync.Mutex
	byKey map[string]*pull
}

// pull is one pull in progress, for all who asked for it.
type pull struct {
	key    string
	refs   int // callers; guarded by pulls.mu
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when img and err are set
	img    *Image
	err    error
	listeners
}

func newPulls(bg *background) *pulls { return &pulls{bg: bg, byKey: map[string]*pull{}} }

// join adds a caller to the pull of the key, which work does if there is none yet. The
// caller waits for done, or calls [pulls.leave].
func (p *pulls) join(key string, tell func(Progress), work func(context.Context, func(Progress)) (*Image, error)) *pull {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one := p.byKey[key]; one != nil {
		one.refs++
		one.add(tell)
		return one
	}
	ctx, cancel := context.WithCancelCause(p.bg.ctx)
	one := &pull{key: key, refs: 1, cancel: cancel, done: make(chan struct{})}
	one.add(tell)
	p.byKey[key] = one
	p.bg.run(func() {
		one.img, one.err = work(ctx, one.tell)
		p.mu.Lock()
		p.forget(one)
		p.mu.Unlock()
		close(one.done)
		cancel(nil)
	})
	return one
}

// leave takes a caller off the pull, and ends it when it was the last. A later caller
// of the same name starts a new one.
func (p *pulls) leave(one *pull, cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one.refs--; one.refs > 0 {
		return
	}
	p.forget(one)
	one.cancel(cause)
}

// forget lets nobody join the pull any more. It is called with mu locked.
func (p *pulls) forget(one *pull) {
	if p.byKey[one.key] == one {
		delete(p.byKey, one.key)
	}
}

// pullKey is the same for pulls that can share one.
func pullKey(ref registry.Reference, auth *Auth) string {
	key := ref.String()
	if auth != nil {
		sum := sha256.Sum256(fmt.Appendf(nil, "%q", *auth))
		key += " " + string(sum[:])
	}
	return key
}

// listeners passes progress to everyone who wants it.
type listeners struct {
	mu   sync.Mutex
	list []func(Progress)
}

func (l *listeners) add(f func(Progress)) {
	if f == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, f)
}

func (l *listeners) tell(p Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.list {
		f(p)
	}
}
