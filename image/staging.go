package image

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"

	"berth/image/layer"
	"berth/oci/dirtree"
)

// staging makes layers: it has each layer fetched and unpacked once, in a directory with a
// temporary name, for all pulls that need it, and passes complete layers to the pool.
type staging struct {
	pool  *layerPool
	slots *slots // each running attempt has one
	bg    *background

	publishing sync.Mutex // see "Locks" in doc.go

	mu     sync.Mutex
	stages map[string]*stage // by ChainID
}

func newStaging(pool *layerPool, slots *slots, bg *background) *staging {
	return &staging{pool: pool, slots: slots, bg: bg, stages: map[string]*stage{}}
}

// stage is a layer that is being made, for all pulls that need it. Pulls with the same
// source share one attempt to make it. A pull with another source starts an attempt of its
// own in parallel, and the first attempt that succeeds is used. Otherwise a registry that
// never finishes a layer could delay pulls of the layer from other registries.
type stage struct {
	rec    layerRecord
	refs   int  // number of pulls with a claim; guarded by staging.mu
	public bool // it is a layer in the pool, which counts the references now; guarded by staging.mu
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the layer is unpacked or all attempts have failed
	listeners

	// Guarded by staging.mu.
	attempts map[string]*attempt // by origin.source, without the failed ones
	running  int                 // number of running attempts
	settled  bool                // an attempt succeeded, or all failed

	// Set before done is closed.
	dir    string // R/layers/.tmp-*
	result layer.Result
	err    error

	inheriting chan struct{} // a lock: has an element while a pull completes the layer
	inherited  bool          // the layer was completed; guarded by inheriting

	renamed bool // guarded by staging.publishing
}

// attempt is the making of a stage's layer from one source.
type attempt struct {
	turn
	failed chan struct{} // closed when it failed
	err    error         // valid once failed is closed
}

var errOvertaken = errors.New("the layer was there from elsewhere before")

// layerRequest is a pull's request for a layer.
type layerRequest struct {
	rec  layerRecord
	from origin
	do   unpack         // makes the layer
	tell func(Progress) // called for each step; may be nil
}

// claim is a pull's reference to a layer or to the stage of a layer. While the pull has it,
// the layer is not deleted.
type claim struct {
	stage   *stage   // nil if the layer is complete: the claim is a reference in the pool
	attempt *attempt // from the source of the request; nil if the stage is settled
	joined  bool     // another pull started the attempt
}

// acquire returns a claim to the layer, and starts an attempt to make it if that is needed.
// The caller ends the claim by [staging.leave] or, if the layer is complete, by
// [layerPool.unref].
func (s *staging) acquire(r layerRequest) claim {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pool.refPresent(r.rec.ChainID) {
		return claim{}
	}
	st := s.stages[r.rec.ChainID]
	if st == nil {
		st = &stage{rec: r.rec, done: make(chan struct{}), attempts: map[string]*attempt{}, inheriting: make(chan struct{}, 1)}
		st.ctx, st.cancel = context.WithCancelCause(s.bg.ctx)
		s.stages[r.rec.ChainID] = st
	}
	st.refs++
	st.add(r.tell)
	if a := st.attempts[r.from.source]; a != nil {
		s.slots.join(&a.turn, r.from)
		return claim{st, a, true}
	}
	if st.settled {
		return claim{st, nil, true}
	}
	a := &attempt{turn: newTurn(r.from), failed: make(chan struct{})}
	st.attempts[r.from.source] = a
	st.running++
	made := &stage{rec: r.rec}
	made.add(st.tell)
	s.bg.running.Go(func() {
		err := s.make(st.ctx, made, &a.turn, r.do)
		s.settle(st, made, a, r.from.source, err)
	})
	return claim{st, a, false}
}

// await waits until the stage is done, or until the attempt a has failed.
func (st *stage) await(ctx context.Context, a *attempt) error {
	var failed chan struct{}
	if a != nil {
		failed = a.failed
	}
	select {
	case <-st.done:
	case <-failed:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-st.done:
		if st.err == nil || a == nil {
			return st.err
		}
	default:
	}
	return a.err
}

// make waits for a slot, runs do to make one layer, and removes the files of a failed
// attempt. It returns the slot before that, because the removal may take longer than the
// unpacking did.
func (s *staging) make(ctx context.Context, made *stage, t *turn, do unpack) error {
	if err := s.slots.take(ctx, t); err != nil {
		return err
	}
	var err error
	for again := true; again; {
		if made.dir, err = os.MkdirTemp(s.pool.dir, tmpPrefix); err != nil {
			break
		}
		err = do(ctx, made.dir, made)
		if again = errors.Is(err, errDamaged); again {
			failed := made.dir
			s.bg.running.Go(func() { _ = s.pool.removeUnpacked(failed) })
		}
	}
	if err == nil {
		err = made.measure(ctx)
	}
	s.slots.give(t)
	if err != nil && made.dir != "" {
		err = errors.Join(err, s.pool.removeUnpacked(made.dir))
	}
	return err
}

// measure sets the disk usage that the unpacked layer will have when it is complete.
func (st *stage) measure(ctx context.Context) error {
	u, err := dirtree.Measure(ctx, st.dir)
	passing, files := layer.ListUsage(st.dir)
	st.rec.Bytes, st.rec.Inodes = u.Bytes-passing, u.Inodes-files
	return err
}

// settle ends an attempt. If it is the first to succeed, its directory becomes the stage's.
// The stage fails when its last attempt fails.
func (s *staging) settle(st, made *stage, a *attempt, source string, err error) {
	s.mu.Lock()
	st.running--
	won := err == nil && !st.settled
	over := won || st.running == 0 && !st.settled
	st.settled = st.settled || over
	switch {
	case won:
		st.rec, st.result, st.dir = made.rec, made.result, made.dir
	case err != nil:
		delete(st.attempts, source)
		a.err = err
		close(a.failed)
		if over {
			st.err = err
			s.forget(st)
		}
	}
	s.mu.Unlock()
	if err == nil && !won {
		_ = s.pool.removeUnpacked(made.dir)
	}
	if over {
		close(st.done)
		st.cancel(errOvertaken)
	}
}

// forget removes the stage from the map, so that no later pull joins it. It is called with
// mu locked.
func (s *staging) forget(st *stage) {
	if s.stages[st.rec.ChainID] == st {
		delete(s.stages, st.rec.ChainID)
	}
}

// inherit completes the unpacked layer by the layers below it, unless another pull has done
// that. One pull at a time does it.
func (st *stage) inherit(ctx context.Context, below *layer.Below) error {
	select {
	case st.inheriting <- struct{}{}:
		defer func() { <-st.inheriting }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if st.inherited {
		return nil
	}
	dropped, err := layer.Inherit(ctx, st.dir, st.result, below)
	st.rec.Inodes -= uint64(dropped)
	st.inherited = err == nil
	return err
}

// unflushed reports whether one of the stages may not be on disk completely. Stages that
// were renamed to their final names were flushed before.
func (s *staging) unflushed(stages []*stage) bool {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	return slices.ContainsFunc(stages, func(st *stage) bool { return st != nil && !st.renamed })
}

// publish makes layers of the stages, which must be complete and flushed; nil elements are
// skipped. It returns the ChainIDs of the layers it made, also beside an error. From then on
// a pull's claim to such a layer is a reference in the pool, ended by [layerPool.unref].
func (s *staging) publish(stages []*stage) (chains []string, err error) {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	renamed := false
	for _, st := range stages {
		if st == nil {
			continue
		}
		if !st.renamed {
			if err := s.pool.place(st.dir, st.rec.ChainID); err != nil {
				return chains, err
			}
			st.renamed, renamed = true, true
		}
		s.mu.Lock()
		if s.stages[st.rec.ChainID] == st {
			delete(s.stages, st.rec.ChainID)
			st.public = true
			s.pool.add(st.rec, st.refs)
		}
		s.mu.Unlock()
		chains = append(chains, st.rec.ChainID)
	}
	if renamed {
		err = s.pool.syncNames()
	}
	return chains, err
}

// leave ends the claim of one pull to a stage. When the last claim ends, the attempts are
// cancelled with cause, and the directory is removed.
func (s *staging) leave(st *stage, cause error) {
	s.mu.Lock()
	if st.public {
		s.mu.Unlock()
		s.pool.unref([]string{st.rec.ChainID})
		return
	}
	st.refs--
	last := st.refs == 0
	if last {
		s.forget(st)
	}
	s.mu.Unlock()
	if !last {
		return
	}
	st.cancel(cause)
	<-st.done
	if st.err == nil {
		_ = s.pool.removeUnpacked(st.dir)
	}
}
