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
	bg    *background
	trust *trust
	work  pullWork

	mu    sync.Mutex
	byKey map[string]*pull
}

// pullWork does one pull and tells of its progress. [puller.pull] is one.
type pullWork func(ctx context.Context, ref registry.Reference, auth *Auth, tell func(Progress)) (*Image, error)

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

func newPulls(bg *background, trust *trust, work pullWork) *pulls {
	return &pulls{bg: bg, trust: trust, work: work, byKey: map[string]*pull{}}
}

// Pull makes the image the reference names in its registry now present, and gives
// it. Callers that ask for the same with the same credentials share one pull; it
// goes on until the last of them gave up.
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
		workCtx, one.cancel = context.WithCancelCause(p.bg.ctx)
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

// finish gives the pull's callers its result.
func (p *pulls) finish(one *pull) {
	p.mu.Lock()
	p.forget(one)
	p.mu.Unlock()
	close(one.done)
	one.cancel(nil)
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
