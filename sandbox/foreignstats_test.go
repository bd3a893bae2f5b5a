package sandbox

import (
	"context"
	"fmt"
	"testing"
	"time"

	"berth/oci/shimapi"
	"berth/sandbox/record"
)

// foreign runs containers whose pods are then taken for a foreign shim's, one each, and
// gives what their shim is asked for their usage, which never answers before the test ends.
func (n *fakeNode) foreign(count int) (ids []string, asked <-chan string) {
	n.t.Helper()
	for i := range count {
		pod := n.pod(fmt.Sprint("p", i))
		ids = append(ids, n.run(pod, "c"))
		if err := n.m.index.podByID(pod).change(inMemory, func(rec *podRecord) { rec.Runtime = &record.Runtime{Shim: "/nonexistent"} }); err != nil {
			n.t.Fatal(err)
		}
	}
	questions, ended := make(chan string, 10*count), make(chan struct{})
	n.t.Cleanup(func() { close(ended) })
	n.shim.onCall(func(method, id string) *shimapi.Error {
		if method == shimapi.MethodStats {
			questions <- id
			<-ended
		}
		return nil
	})
	return ids, questions
}

// However many foreign shims hang, a list takes as long as one of them may.
func TestSilentForeignShimsShareTheirTime(t *testing.T) {
	n := newFakeNode(t)
	ids, asked := n.foreign(2*statsReaders + 1)
	begin := time.Now()
	got := n.m.ListContainerStats(t.Context(), ids)
	if took := time.Since(begin); took >= 2*foreignPatience {
		t.Errorf("%d shims that hang took %v", len(ids), took)
	}
	if len(got) != len(ids) || len(asked) != statsReaders {
		t.Errorf("%d statistics of %d, %d shims asked", len(got), len(ids), len(asked))
	}
	begin = time.Now()
	n.m.ListContainerStats(t.Context(), ids[:statsReaders])
	if took := time.Since(begin); took >= foreignPatience/2 || len(asked) != statsReaders {
		t.Errorf("shims that had just been silent: %v, asked %d times", took, len(asked)-statsReaders)
	}
}

// A client that gives up does not wait for a foreign shim, and its haste is not the shim's
// silence.
func TestForeignStatsEndWithTheClient(t *testing.T) {
	n := newFakeNode(t)
	ids, asked := n.foreign(1)
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		begin := time.Now()
		go func() {
			defer close(ended)
			n.m.ListContainerStats(ctx, ids)
		}()
		select {
		case <-asked:
			cancel()
			<-ended
		case <-ended:
			t.Error("the shim was not asked")
		}
		cancel()
		if took := time.Since(begin); took >= foreignPatience {
			t.Errorf("the client gave up, and got its answer after %v", took)
		}
	}
}
