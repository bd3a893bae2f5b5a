package shims

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"berth/oci/shimapi"
)

// Close disconnects. The shims and all they hold live on; what a shim that has just
// died held is handed over first.
func (s *Set) Close() error {
	s.mu.Lock() // see admit
	s.cancel()
	s.mu.Unlock()
	s.tasks.Wait()
	close(s.events)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range s.shims {
		for ; sh != nil; sh = sh.nextLocked() { // an heir that came too late for the set
			for id := range sh.kept {
				sh.dropLocked(id)
			}
		}
	}
	return nil
}

// Shutdown asks every shim that holds nothing to leave, and waits for those.
func (s *Set) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.shims))
	s.mu.Unlock()
	var failed error
	for _, sh := range all {
		_, err := s.dismiss(ctx, sh)
		failed = errors.Join(failed, err)
	}
	removeShimCgroup(s.config.StateDir)
	return failed
}

// dismiss lets a shim go if it holds nothing; that it does is no error. It tells
// whether it has left.
func (s *Set) dismiss(ctx context.Context, sh *Shim) (left bool, err error) {
	sh = sh.current(ctx)
	if !sh.retire() {
		return false, nil
	}
	err = sh.ask(ctx, shimapi.MethodShutdown, struct{}{}, nil)
	var told *shimapi.Error
	if errors.As(err, &told) && told.Kind != shimapi.KindNotRunning { // else it is leaving already
		sh.unretire()
		if told.Kind == shimapi.KindExists {
			return false, nil
		}
		return false, fmt.Errorf("shut shim %s down: %w", sh.id, err)
	}
	// However the call ended, the shim may have taken it: it gets no new pods, and
	// is asked again by who comes after us.
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-sh.gone:
		return sh.heir(ctx) == nil, nil
	case <-ctx.Done():
		return false, errors.Join(fmt.Errorf("shim %s does not leave: %w", sh.id, context.Cause(ctx)), err)
	case <-s.ctx.Done():
		return false, errClosed
	}
}

// retire keeps new pods away from a shim, unless one is there or about to be.
func (sh *Shim) retire() bool {
	sh.shims.mu.Lock()
	defer sh.shims.mu.Unlock()
	if len(sh.pods)+sh.reserved > 0 {
		return false
	}
	sh.leaving = true // its end is expected
	return true
}

func (sh *Shim) unretire() {
	sh.shims.mu.Lock()
	defer sh.shims.mu.Unlock()
	sh.leaving = false
}
