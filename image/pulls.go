package image

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"

	"berth/image/registry"
	"berth/oci/tracing"
)

// pulls are the pulls in progress. Callers with the same request share one pull.
type pulls struct {
	bg    *background
	trust *trust
	work  pullWork

	mu    sync.Mutex
	byKey map[string]*pull
}

// pullWork does one pull and calls tell for each step. [puller.pull] is one.
type pullWork func(ctx context.Context, ref registry.Reference, auth *Auth, tell func(Progress)) (*Image, error)

// pull is one pull in progress, shared by all callers with the same request.
type pull struct {
	key    string
	refs   int // number of callers that wait for it; guarded by pulls.mu
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when img and err are set
	img    *Image
	err    error
	listeners
}

func newPulls(bg *background, trust *trust, work pullWork) *pulls {
	return &pulls{bg: bg, trust: trust, work: work, byKey: map[string]*pull{}}
}

// Pull brings the image that the reference has in its registry at present into the store,
// and returns it. Callers with the same reference and credentials share one pull. It is
// cancelled when the contexts of all of them have ended.
func (p *pulls) Pull(ctx context.Context, req PullRequest) (*Image, error) {
	ref, err := registry.Parse(req.Reference)
	if err != nil {
		return nil, err
	}
	if err := p.trust.policy().allowName(ref); err != nil {
		return nil, err
	}
	p.mu.Lock()
	one := p.byKey[pullKey(ref, req.Auth)]
	if one == nil {
		one = &pull{key: pullKey(ref, req.Auth), done: make(chan struct{})}
		p.byKey[one.key] = one
		var workCtx context.Context
		workCtx, one.cancel = context.WithCancelCause(tracing.Carry(p.bg.ctx, ctx))
		p.bg.running.Go(func() {
			img, err := p.work(workCtx, ref, req.Auth, one.tell)
			one.img, one.err = img, pullFailure(ref, err)
			p.finish(one)
		})
	}
	one.refs++
	one.add(req.Progress)
	p.mu.Unlock()
	select {
	case <-one.done:
		return one.img, one.err
	case <-ctx.Done():
		p.leave(one, context.Cause(ctx))
		return nil, fmt.Errorf("pull %s: %w", ref, context.Cause(ctx))
	}
}

// finish passes the result of the pull to its callers.
func (p *pulls) finish(one *pull) {
	p.mu.Lock()
	p.forget(one)
	p.mu.Unlock()
	close(one.done)
	one.cancel(nil)
}

// leave removes a caller from the pull, and cancels the pull when that was the last one. A
// later caller with the same request starts a new pull.
func (p *pulls) leave(one *pull, cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one.refs--; one.refs > 0 {
		return
	}
	p.forget(one)
	one.cancel(cause)
}

// forget removes the pull from the map, so that no later caller joins it. It is called with
// mu locked.
func (p *pulls) forget(one *pull) {
	if p.byKey[one.key] == one {
		delete(p.byKey, one.key)
	}
}

// pullKey returns the key of a request; requests with the same key share one pull.
func pullKey(ref registry.Reference, auth *Auth) string {
	key := ref.String()
	if auth != nil {
		sum := sha256.Sum256(fmt.Appendf(nil, "%q", *auth))
		key += " " + string(sum[:])
	}
	return key
}

// listeners passes the progress of a pull on to the callers that asked for it.
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
