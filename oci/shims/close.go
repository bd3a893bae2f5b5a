package shims

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"berth/oci/shimapi"
)

// Close disconnects from the shims, which live on with all that they hold. A handover
// that is under way is completed first.
func (s *Set) Close() error {
	s.mu.Lock() // see process.follow
	s.cancel()
	s.mu.Unlock()
	s.tasks.Wait()
	close(s.events)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range s.shims {
		sh.handover.dropAll()
	}
	return nil
}

// Shutdown tells every shim without pods to exit, and waits until those have ended.
func (s *Set) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.shims))
	s.mu.Unlock()
	var failed error
	for _, sh := range all {
		_, err := s.shutDownIfIdle(ctx, sh)
		failed = errors.Join(failed, err)
	}
	removeShimCgroup(s.config.StateDir)
	return failed
}

// shutDownIfIdle tells a shim to exit if it has no pods, and waits until it has ended.
// A shim that has pods is left alone without an error. It reports whether the shim has
// exited.
func (s *Set) shutDownIfIdle(ctx context.Context, sh *Shim) (exited bool, err error) {
	if !sh.retire() {
		return false, nil
	}
	p := sh.live(ctx)
	c := p.dial(ctx)
	c.WriteRequest(shimapi.MethodShutdown, struct{}{})
	err = c.answer(ctx, nil)
	// KindNotRunning: it is exiting already.
	if refusal, ok := errors.AsType[*shimapi.Error](err); ok && refusal.Kind != shimapi.KindNotRunning {
		sh.unretire()
		if refusal.Kind == shimapi.KindExists {
			return false, nil
		}
		return false, fmt.Errorf("shut shim %s down: %w", sh.id, err)
	}
	// Whatever other error there was, the shim may have got the request: it gets no new
	// pods, and the next daemon asks it again.
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-p.gone:
		return p.awaitReplacement(ctx) == nil, nil
	case <-ctx.Done():
		return false, errors.Join(fmt.Errorf("shim %s does not exit: %w", sh.id, context.Cause(ctx)), err)
	case <-s.ctx.Done():
		return false, errClosed
	}
}

// retire keeps new pods away from a shim. It returns false for a shim that has pods or
// has promised room to one.
func (sh *Shim) retire() bool {
	sh.set.mu.Lock()
	defer sh.set.mu.Unlock()
	if len(sh.pods)+sh.reserved > 0 {
		return false
	}
	sh.leaving = true
	return true
}

func (sh *Shim) unretire() {
	sh.set.mu.Lock()
	defer sh.set.mu.Unlock()
	sh.leaving = false
}
