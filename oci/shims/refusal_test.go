package shims_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/test/shimnode"
)

// TestARefusalThatMayPassIsNoLoss: a container whose record can't be read for now is not given
// up, while one is whose record is gone.
func TestARefusalThatMayPassIsNoLoss(t *testing.T) {
	var tries atomic.Int32
	s := newStubs(t, func(c stubCall) stubVerdict {
		switch {
		case c.Method != shimapi.MethodAdopt:
		case c.id(t) == "none":
			return stubVerdict{Error: &shimapi.Error{Kind: shimapi.KindNotFound, Message: "there is no record"}}
		case c.id(t) == "unread" && tries.Add(1) < 3:
			return stubVerdict{Error: &shimapi.Error{Kind: shimapi.KindInternal, Message: "input/output error"}}
		}
		return stubVerdict{}
	})
	for _, id := range []string{"none", "unread"} {
		s.shim.Keep(shimapi.HandoverState{ID: id, Pod: "p"}, nil)
	}
	s.kill()
	s.next(shims.EventReplaced)
	if e := s.next(shims.EventLost); e.Record.ID != "none" {
		t.Errorf("%q is lost, want only the container without a record", e.Record.ID)
	}
	if e := s.next(shims.EventDelayed); e.Record.ID != "unread" || e.Record.Message == "" {
		t.Errorf("%+v is delayed, want the container that can't be read", e.Record)
	}
	s.adopted("unread")
	if s.shim.Handovers() != 2 || tries.Load() != 3 {
		t.Errorf("%d are held after %d tries, want the pod and the container that could be read at the third", s.shim.Handovers(), tries.Load())
	}
}

// TestAHangingAdoptionHoldsUpNoOther: a container whose log is on a file system that hangs is
// adopted when that goes on. Meanwhile the others are served, and it is told from one that is gone.
func TestAHangingAdoptionHoldsUpNoOther(t *testing.T) {
	defer shims.SetAdoptPatience(100 * time.Millisecond)()
	goesOn := make(chan struct{})
	s := newStubs(t, func(c stubCall) stubVerdict {
		if c.Method == shimapi.MethodAdopt && c.id(t) == "hangs" {
			<-goesOn
		}
		return stubVerdict{}
	})
	for _, id := range []string{"hangs", "runs"} {
		s.shim.Keep(shimapi.HandoverState{ID: id, Pod: "p"}, nil)
	}
	s.kill()
	s.next(shims.EventReplaced)
	if e := s.next(shims.EventDelayed); e.Record.ID != "hangs" {
		t.Errorf("%+v is delayed, want the container that hangs", e.Record)
	}
	for id, want := range map[string]error{"hangs": shims.ErrDelayed, "runs": nil} {
		for verb, err := range s.allCalls(id) {
			if !errors.Is(err, want) {
				t.Errorf("%s of %q: %v, want %v", verb, id, err, want)
			}
		}
	}
	if err := s.shim.Delete(t.Context(), "hangs"); !errors.Is(err, shims.ErrDelayed) {
		t.Errorf("delete: %v, want that it is delayed", err)
	}
	// The stub lists none that it holds.
	if held, err := s.shim.List(t.Context()); err != nil || len(held.Containers) != 1 || held.Containers[0].ID != "hangs" {
		t.Errorf("listed are %+v, %v, want the container that hangs", held, err)
	}
	close(goesOn)
	s.adopted("hangs")
}

// allCalls makes every call about a container that exists.
func (s *stubs) allCalls(id string) map[string]error {
	ctx := s.t.Context()
	session, exec := s.shim.Exec(ctx, &shimapi.ExecRequest{ID: id}, nil)
	if exec == nil {
		session.Close()
	}
	share, attach := s.shim.Attach(ctx, &shimapi.AttachRequest{ID: id}, nil)
	if attach == nil {
		share.Close()
	}
	_, usage := s.shim.Usage(ctx, id)
	return map[string]error{
		"exec": exec, "attach": attach, "usage": usage,
		"start":  s.shim.Start(ctx, id),
		"kill":   s.shim.Kill(ctx, &shimapi.KillRequest{ID: id}),
		"resize": s.shim.Resize(ctx, &shimapi.ResizeRequest{ID: id}),
		"update": s.shim.Update(ctx, &shimapi.UpdateRequest{ID: id}),
		"stdin":  s.shim.CloseStdin(ctx, id),
		"reopen": s.shim.Reopen(ctx, id),
	}
}

// adopted waits until calls about a container reach the shim.
func (s *stubs) adopted(id string) {
	s.t.Helper()
	shimnode.Eventually(s.t, "the container is adopted", func() bool { return s.shim.Reopen(s.t.Context(), id) == nil })
}
