package shims_test

import (
	"sync/atomic"
	"testing"
	"time"

	"berth/oci/shimapi"
	"berth/oci/shims"
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
	s.next(shims.EventDelayed)
	s.next(shims.EventReplaced)
	if e := s.next(shims.EventLost); e.Record.ID != "none" {
		t.Errorf("%q is lost, want only the container without a record", e.Record.ID)
	}
	if s.shim.Handovers() != 2 || tries.Load() != 3 {
		t.Errorf("%d are held after %d tries, want the pod and the container that could be read at the third", s.shim.Handovers(), tries.Load())
	}
}

// TestWhatIsNeverAdoptedIsLostInTheEnd: a container whose adoption is refused again and again, or
// hangs each time, keeps the others without a shim for a bounded time.
func TestWhatIsNeverAdoptedIsLostInTheEnd(t *testing.T) {
	defer shims.SetAdoptionPatience(time.Second)()
	defer shims.SetStepPatience(500 * time.Millisecond)()
	for name, answer := range map[string]func() stubVerdict{
		"refused": func() stubVerdict {
			return stubVerdict{Error: &shimapi.Error{Kind: shimapi.KindInternal, Message: "input/output error"}}
		},
		"hangs": func() stubVerdict {
			<-t.Context().Done() // its stub ends before
			return stubVerdict{}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStubs(t, func(c stubCall) stubVerdict {
				if c.Method == shimapi.MethodAdopt && c.id(t) == "bad" {
					return answer()
				}
				return stubVerdict{}
			})
			for _, id := range []string{"bad", "good"} {
				s.shim.Keep(shimapi.HandoverState{ID: id, Pod: "p"}, nil)
			}
			s.kill()
			s.next(shims.EventReplaced)
			if e := s.next(shims.EventLost); e.Record.ID != "bad" {
				t.Errorf("%q is lost, want the one that is never adopted", e.Record.ID)
			}
			if n := s.shim.Handovers(); n != 2 {
				t.Errorf("%d are held, want the pod and the good container", n)
			}
		})
	}
}
