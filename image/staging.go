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

// staging makes layers: it has them fetched and unpacked under temporary names, for all
// pulls that want them, and gives those that are complete to the pool.
type staging struct {
	pool  *layerPool
	slots *slots // one for each attempt that is being worked on
	bg    *background

	publishing sync.Mutex // see the package's rules for locks

	mu     sync.Mutex
	stages map[string]*stage // by ChainID
}

func newStaging(pool *layerPool, slots *slots, bg *background) *staging {
	return &staging{pool: pool, slots: slots, bg: bg, stages: map[string]*stage{}}
}

// stage is a layer in the making, for all pulls that want it. Pulls that would have it
// from the same source share one attempt. A pull that would have it from elsewhere
// makes an attempt of its own beside the others, and the first that succeeds counts:
// another registry must not be able to hold up a layer by never finishing it.
type stage struct {
	rec    layerRecord
	refs   int  // pulls; guarded by staging.mu
	public bool // it has become a layer, which has the references; guarded by staging.mu
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when it is unpacked or failed
	listeners

	// Guarded by staging.mu.
	attempts map[string]*attempt // by origin.source; those that failed are not in it
	running  int                 // attempts
	settled  bool                // one succeeded, or all failed

	// Set before done is closed.
	dir    string // R/layers/.tmp-*
	result layer.Result
	err    error

	inheriting chan struct{} // holds an element while a pull completes the layer
	inherited  bool          // guarded by inheriting

	renamed bool // guarded by staging.publishing
}

// attempt is one source's part in a stage.
type attempt struct {
	turn
	failed chan struct{} // closed when it failed
	err    error         // valid once failed is closed
}

var errOvertaken = errors.New("the layer was there from elsewhere before")

// layerRequest is what a pull wants of the staging area.
type layerRequest struct {
	rec  layerRecord
	from origin
	do   unpack         // makes the layer
	tell func(Progress) // is told of it; may be nil
}

// claim is a pull's part in a layer, which keeps it from being deleted.
type claim struct {
	stage   *stage   // nil when the layer is complete: the claim is a reference in the pool
	attempt *attempt // at the stage, by the source that was asked for; nil when the stage is settled
	joined  bool     // the attempt is one that another pull has begun
}

// acquire makes sure the layer is there or being made. The claim is given up by
// [staging.leave], or by [layerPool.unref] when the layer is complete.
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

// await waits for the stage, or for the attempt at it to fail.
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

// make runs one layer's pipeline when it is its turn, and cleans up after what failed.
// The slot is free again before that, which may take longer than it took to unpack.
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

// measure notes what the unpacked layer will take of the disk once it is complete.
func (st *stage) measure(ctx context.Context) error {
	u, err := dirtree.Measure(ctx, st.dir)
	passing, files := layer.ListUsage(st.dir)
	st.rec.Bytes, st.rec.Inodes = u.Bytes-passing, u.Inodes-files
	return err
}

// settle takes what an attempt made for the stage, if it is the first to succeed. The
// stage has failed when all attempts have.
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

// forget lets nobody join the stage any more. It is called with mu locked.
func (s *staging) forget(st *stage) {
	if s.stages[st.rec.ChainID] == st {
		delete(s.stages, st.rec.ChainID)
	}
}

// inherit completes the unpacked layer, unless that was done, for one pull at a time.
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

// unflushed tells whether one of the stages is not on disk for sure: those that have
// their names were flushed before.
func (s *staging) unflushed(stages []*stage) bool {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	return slices.ContainsFunc(stages, func(st *stage) bool { return st != nil && !st.renamed })
}

// publish makes layers of the stages, which must be complete and flushed; elements that
// are nil are left out. It gives the ChainIDs of those it came to: from then on a pull's
// reference to one is the pool's, given up by [layerPool.unref].
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

// leave gives up one pull's part of a stage.
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
