package shims_test

import (
	"sync/atomic"
	"testing"
	"time"

	"berth/oci/shimapi"
	"berth/oci/shims"
)

// tooMany deaths of replacements end a shim for good, if they are their own fault.
const tooMany = 6

// adoptionsAfter lets the first adoptions of a container go wrong, and counts all.
func adoptionsAfter(t *testing.T, wrong stubVerdict, count *atomic.Int32) func(stubCall) stubVerdict {
	return func(c stubCall) stubVerdict {
		if c.Method == shimapi.MethodAdopt && c.id(t) == "c" && count.Add(1) <= tooMany {
			return wrong
		}
		return stubVerdict{}
	}
}

// TestDeathsOfAShortageAreNoCrashes: replacements that the kernel kills for want of memory, or that
// get no thread, in the middle of an adoption are followed by others until one lives.
func TestDeathsOfAShortageAreNoCrashes(t *testing.T) {
	const stacks = "\n\ngoroutine 1 [running]:\nmain.main()\n"
	for name, wrong := range map[string]stubVerdict{
		"killed":    {Dies: diesOfSignal},
		"no thread": {Dies: diesOfBug, Says: "runtime: failed to create new OS thread (have 9 already; errno=11)\nfatal error: newosproc" + stacks},
		"no memory": {Dies: diesOfBug, Says: "fatal error: runtime: out of memory" + stacks},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait most of the time
			var count atomic.Int32
			s := newStubs(t, adoptionsAfter(t, wrong, &count))
			s.shim.Keep(shimapi.HandoverState{ID: "c", Pod: "p"}, nil)
			s.kill()
			s.next(shims.EventDelayed)
			s.next(shims.EventReplaced)
			if count.Load() != tooMany+1 || s.shim.Handovers() != 2 {
				t.Errorf("%d are held after %d adoptions, want the pod and the container after %d", s.shim.Handovers(), count.Load(), tooMany+1)
			}
		})
	}
}

// TestCrashesEndAShim: replacements that die of what they adopt are given up after a few.
func TestCrashesEndAShim(t *testing.T) {
	var count atomic.Int32
	s := newStubs(t, adoptionsAfter(t, stubVerdict{Dies: diesOfBug, Says: "panic: the log said \"out of memory\"\n"}, &count))
	s.shim.Keep(shimapi.HandoverState{ID: "c", Pod: "p"}, nil)
	s.kill()
	s.next(shims.EventGone)
	if n := count.Load(); n >= tooMany {
		t.Errorf("given up after %d adoptions, want fewer than %d", n, tooMany)
	}
}

// TestAnAdoptionThatHangsIsADelay: adoptions that take too long, one after the other, are no
// reason to end all that the shim holds.
func TestAnAdoptionThatHangsIsADelay(t *testing.T) {
	defer shims.SetStepPatience(200 * time.Millisecond)()
	var count atomic.Int32
	s := newStubs(t, func(c stubCall) stubVerdict {
		if c.Method == shimapi.MethodAdopt && c.id(t) == "c" && count.Add(1) <= tooMany {
			<-t.Context().Done() // it ends with the stub, at the latest
		}
		return stubVerdict{}
	})
	s.shim.Keep(shimapi.HandoverState{ID: "c", Pod: "p"}, nil)
	s.kill()
	s.next(shims.EventDelayed)
	s.next(shims.EventReplaced)
}
