package shims

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

const (
	// moment is how long a shim lives that is not worth an heir when several
	// before it lived no longer: something in what it holds kills it.
	moment      = 2 * time.Second
	maxRestless = 5
)

// heir waits until it is known who takes over from a dead shim; nil: nobody, or
// ctx ended.
func (sh *Shim) heir(ctx context.Context) *Shim {
	sh.shims.mu.Lock()
	followed := sh.followed
	sh.shims.mu.Unlock()
	if !followed {
		return nil
	}
	select {
	case <-sh.decided:
		return sh.next
	case <-ctx.Done():
	case <-sh.shims.ctx.Done():
	}
	return nil
}

// awaitHeirs lets shims that have just died be replaced before a new pod gets a
// shim of its own instead.
func (s *Set) awaitHeirs(ctx context.Context) {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.shims))
	s.mu.Unlock()
	for _, sh := range all {
		if sh.isGone() {
			sh.heir(ctx)
		}
	}
}

// succeed puts an heir in a dead shim's place, or tells that it is gone.
func (s *Set) succeed(sh *Shim) {
	next, lost, err := s.replace(sh)
	sh.next = next
	close(sh.decided)
	if s.ctx.Err() != nil {
		return // the next daemon takes what there is
	}
	if next != nil {
		s.send(Event{ShimID: sh.id, Event: shimapi.Event{Kind: EventReplaced}})
		for _, k := range lost {
			r := shimapi.Record{ID: k.ID, Pod: k.Pod}
			s.send(Event{ShimID: sh.id, Event: shimapi.Event{Kind: EventLost, Record: r}})
		}
		return
	}
	s.mu.Lock()
	delete(s.shims, sh.id)
	expected := sh.leaving
	for id := range sh.kept {
		sh.dropLocked(id)
	}
	s.mu.Unlock()
	if !expected {
		_ = os.RemoveAll(sh.dir) // else the next daemon's
		e := shimapi.Event{Kind: EventGone}
		if err != nil {
			e.Record.Message = err.Error()
		}
		s.send(Event{ShimID: sh.id, Event: e})
	}
}

// replace starts a shim in the directory of a dead one, where libcontainer's
// state is, and hands it everything. lost are those it could not adopt. It is nil
// without an error when there is nothing to hand over.
func (s *Set) replace(sh *Shim) (next *Shim, lost []*custody, err error) {
	s.mu.Lock()
	kept := slices.Collect(maps.Values(sh.kept))
	s.mu.Unlock()
	restless := 0
	if time.Since(sh.born) < moment {
		restless = sh.restless + 1
	}
	if _, err := os.Lstat(sh.dir); err != nil || len(kept) == 0 {
		return nil, nil, nil //nolint:nilerr // it has left as it was told to
	}
	slices.SortFunc(kept, func(a, b *custody) int { return len(a.Pod) - len(b.Pod) }) // pauses first
	for _, k := range kept {
		s.reapOrphan(sh.id, k)
	}
	for ; restless < maxRestless; restless++ {
		next, lost, err = s.handOver(sh, kept)
		if err == nil {
			next.restless = restless
			return next, lost, nil
		}
		if s.ctx.Err() != nil {
			break
		}
	}
	if err == nil {
		err = fmt.Errorf("%d shims in a row ended within %v", restless, moment)
	}
	return nil, nil, err
}

// handOver makes one try at an heir. It fails when the heir does.
func (s *Set) handOver(sh *Shim, kept []*custody) (next *Shim, lost []*custody, err error) {
	// Close waits for it: nobody after us has what is handed over.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), patience)
	defer cancel()
	c, err := s.restart(ctx, sh.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("start an heir of the shim: %w", err)
	}
	defer func() {
		if err != nil {
			c.end()
		}
	}()
	if next, err = s.connect(ctx, sh.id, c.reaped); err != nil {
		return nil, nil, fmt.Errorf("heir of the shim: %w", err)
	}
	for _, k := range kept {
		err := k.lendTo(ctx, next)
		var told *shimapi.Error
		if err != nil && !errors.As(err, &told) {
			return nil, nil, fmt.Errorf("heir of the shim: %w", err)
		}
		if err != nil {
			lost = append(lost, k)
		}
	}
	s.bequeath(sh, next, kept)
	if err := s.admit(next); err != nil && !errors.Is(err, errClosed) {
		s.bequeath(next, sh, kept)
		return nil, nil, err
	}
	for _, k := range lost {
		next.forget(k.ID)
	}
	return next, lost, nil
}

// bequeath moves the custody of what is still kept.
func (s *Set) bequeath(from, to *Shim, kept []*custody) {
	s.mu.Lock()
	defer s.mu.Unlock()
	to.reserved, from.reserved = to.reserved+from.reserved, 0
	for _, k := range kept {
		if from.kept[k.ID] != k {
			continue
		}
		delete(from.kept, k.ID)
		to.kept[k.ID] = k
		if k.Pod == "" {
			to.pods[k.ID] = struct{}{}
		}
	}
}

// current is the shim, or the one that has taken over from it.
func (sh *Shim) current(ctx context.Context) *Shim {
	for sh.isGone() {
		next := sh.heir(ctx)
		if next == nil {
			break
		}
		sh = next
	}
	return sh
}

// handLate hands a container over whose creation was told when the shim was dead
// already: its heir may not have been told.
func (sh *Shim) handLate(ctx context.Context, id string) error {
	next := sh.heir(ctx)
	sh.shims.mu.Lock()
	k := sh.kept[id]
	sh.shims.mu.Unlock()
	if k == nil && next != nil {
		return nil
	}
	err := fmt.Errorf("shim %s: %w", sh.id, ErrGone)
	if next != nil {
		err = k.lendTo(ctx, next)
	}
	if err != nil {
		sh.drop(id)
		return err
	}
	sh.shims.bequeath(sh, next, []*custody{k})
	return nil
}

// restart starts a shim in the directory of a dead one.
func (s *Set) restart(ctx context.Context, dir string) (*child, error) {
	for _, name := range []string{shimapi.IdentityName, shimapi.SocketName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	for {
		c, err := s.start(ctx, dir)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return c, err
		}
		select { // a child that it was just starting has the lock until it executes
		case <-ctx.Done():
			return nil, err
		case <-time.After(10 * time.Millisecond):
		}
	}
}
