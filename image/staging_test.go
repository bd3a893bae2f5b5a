package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// newTestStaging makes a staging area over an empty pool that was swept.
func newTestStaging(t *testing.T) *staging {
	t.Helper()
	p := newPool(t)
	if err := p.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	return newStaging(p, newSlots(4), p.bg)
}

// writes is an unpack that leaves one file, once gate is closed.
func writes(gate <-chan struct{}) unpack {
	return func(ctx context.Context, dir string, st *stage) error {
		select {
		case <-gate:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		st.rec.TarSize = 512
		return os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)
	}
}

// want asks for a layer from a source.
func want(rec layerRecord, source string, do unpack) layerRequest {
	return layerRequest{rec: rec, from: origin{source: source}, do: do}
}

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func TestStagingMakesALayerOnce(t *testing.T) {
	s, rec, gate := newTestStaging(t), layersNamed("a")[0], make(chan struct{})
	first := s.acquire(want(rec, "x", writes(gate)))
	second := s.acquire(want(rec, "x", writes(nil)))
	st := first.stage
	if st != second.stage || first.attempt != second.attempt || first.joined || !second.joined {
		t.Errorf("two pulls of one source have the claims %+v, %+v; want one attempt", first, second)
	}
	close(gate)
	if err := st.await(t.Context(), first.attempt); err != nil {
		t.Fatal(err)
	}
	if !s.unflushed([]*stage{nil, st}) {
		t.Error("a layer that was just unpacked counts as flushed")
	}
	for range 2 { // by each of the pulls
		chains, err := s.publish([]*stage{nil, st})
		if err != nil || len(chains) != 1 || chains[0] != rec.ChainID {
			t.Errorf("publish gave %q, %v", chains, err)
		}
	}
	if s.unflushed([]*stage{st}) {
		t.Error("a layer that has its name counts as not flushed")
	}
	poolHas(t, s.pool, "a")
	if c := s.acquire(want(rec, "y", writes(nil))); c.stage != nil {
		t.Error("a complete layer is made again")
	}
	s.leave(st, nil) // one of the pulls gives its part up after all
	s.pool.unref([]string{rec.ChainID})
	poolHas(t, s.pool, "a")
	s.pool.unref([]string{rec.ChainID})
	poolHas(t, s.pool)
}

func TestStagingFirstSourceCounts(t *testing.T) {
	s, rec := newTestStaging(t), layersNamed("a")[0]
	slow := s.acquire(want(rec, "slow", writes(nil)))
	fast := s.acquire(want(rec, "fast", writes(closed())))
	st := fast.stage
	if st != slow.stage || fast.joined {
		t.Error("another source does not make an attempt of its own at the same layer")
	}
	if err := st.await(t.Context(), fast.attempt); err != nil {
		t.Fatal(err)
	}
	if st.rec.TarSize != 512 || st.rec.Inodes != 2 {
		t.Errorf("the stage has %+v, want what the attempt made", st.rec)
	}
	for range 2 {
		s.leave(st, nil)
	}
	s.bg.stop()
	poolHas(t, s.pool) // neither attempt left a directory
}

func TestStagingFailures(t *testing.T) {
	s, rec := newTestStaging(t), layersNamed("a")[0]
	broken := errors.New("broken")
	fails := func(context.Context, string, *stage) error { return broken }
	good, bad := s.acquire(want(rec, "x", writes(nil))), s.acquire(want(rec, "y", fails))
	st := good.stage
	if err := st.await(t.Context(), bad.attempt); !errors.Is(err, broken) {
		t.Errorf("the failed attempt gave %v", err)
	}
	select {
	case <-st.done:
		t.Error("the stage has failed while an attempt goes on")
	default:
	}
	s.leave(st, nil)
	gone := errors.New("gone")
	s.leave(st, gone) // the last
	if err := st.await(t.Context(), good.attempt); !errors.Is(err, gone) {
		t.Errorf("the attempt that was given up ended with %v", err)
	}
	tries := 0
	damagedOnce := func(ctx context.Context, dir string, st *stage) error {
		if tries++; tries == 1 {
			return errDamaged
		}
		return writes(closed())(ctx, dir, st)
	}
	twice := s.acquire(want(rec, "z", damagedOnce))
	if err := twice.stage.await(t.Context(), twice.attempt); err != nil || tries != 2 {
		t.Errorf("a damaged download gave %v after %d tries, want success after 2", err, tries)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	pending := s.acquire(want(layersNamed("b")[0], "z", writes(nil)))
	if err := pending.stage.await(ctx, pending.attempt); !errors.Is(err, gone) {
		t.Errorf("waiting ended with %v, want the context's cause", err)
	}
	s.leave(twice.stage, nil)
	s.leave(pending.stage, gone)
	s.bg.stop()
	if len(s.stages) != 0 || s.slots.held != 0 {
		t.Errorf("left: %d stages, %d slots", len(s.stages), s.slots.held)
	}
	poolHas(t, s.pool)
}
