package sandbox

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"berth/oci/shimapi"
	"berth/sandbox/inflight"
)

// gate holds a method of the shim up until it is opened, and says when a call of it has
// arrived.
type gate struct {
	arrived chan struct{}
	open    chan struct{}
}

func (n *fakeNode) gate(method string) gate {
	g := gate{make(chan struct{}, 8), make(chan struct{})}
	n.shim.onCall(func(m, _ string) *shimapi.Error {
		if m == method {
			g.arrived <- struct{}{}
			<-g.open
		}
		return nil
	})
	return g
}

func count(calls []string, method string) (n int) {
	for _, c := range calls {
		if c == method {
			n++
		}
	}
	return n
}

func TestARetryJoinsTheCallItsClientGaveUp(t *testing.T) {
	n := newFakeNode(t)
	g := n.gate(shimapi.MethodRunPod)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-g.arrived; cancel() }()
	_, err := n.m.RunPod(ctx, podConfig("a"), "")
	wantError(t, "the first call", err, context.Canceled)
	other := podConfig("a")
	other.Hostname = "differs"
	_, err = n.m.RunPod(t.Context(), other, "")
	wantError(t, "same name, other configuration", err, inflight.ErrBusy)
	answers := make(chan string, 2)
	for range cap(answers) {
		go func() {
			id, err := n.m.RunPod(context.Background(), podConfig("a"), "")
			if err != nil {
				t.Error(err)
			}
			answers <- id
		}()
	}
	close(g.open)
	if a, b := <-answers, <-answers; a == "" || a != b {
		t.Errorf("retries got %q and %q", a, b)
	}
	if got := count(n.shim.called(), shimapi.MethodRunPod); got != 1 {
		t.Errorf("%d pods were run", got)
	}
}

func TestALateRetryGetsThePodUntilItIsUsed(t *testing.T) {
	n := newFakeNode(t)
	run := func() (string, error) { return n.m.RunPod(t.Context(), podConfig("a"), "") }
	pod, err := run()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := run(); again != pod || err != nil {
		t.Errorf("retry of a lost answer: %q, %v", again, err)
	}
	n.restart()
	if again, err := run(); again != pod || err != nil {
		t.Errorf("retry to the next daemon: %q, %v", again, err)
	}
	create := func() (string, error) {
		return n.m.CreateContainer(t.Context(), pod, containerConfig("c"), podConfig("a"))
	}
	id, err := create()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := create(); again != id || err != nil {
		t.Errorf("retry of create: %q, %v", again, err)
	}
	_, err = run()
	wantError(t, "run of a pod in use", err, ErrExists)
	if err := n.m.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	_, err = create()
	wantError(t, "create of a container that runs", err, ErrExists)
	if err == nil || !strings.Contains(err.Error(), id) {
		t.Errorf("the error does not name the container: %v", err)
	}
	calls := n.shim.called()
	if count(calls, shimapi.MethodRunPod) != 1 || count(calls, shimapi.MethodCreate) != 1 {
		t.Errorf("calls: %v", calls)
	}
	if left := n.calls.Names(); len(left) != 0 {
		t.Errorf("left in flight: %v", left)
	}
}

func TestAStoppedPodKeepsItsName(t *testing.T) {
	n := newFakeNode(t)
	if err := n.m.StopPod(t.Context(), n.pod("a")); err != nil {
		t.Fatal(err)
	}
	_, err := n.m.RunPod(t.Context(), podConfig("a"), "")
	wantError(t, "run of the name of a stopped pod", err, ErrExists)
	next := podConfig("a")
	next.Metadata.Attempt = 1
	if _, err := n.m.RunPod(t.Context(), next, ""); err != nil {
		t.Errorf("the next attempt: %v", err)
	}
}

func TestANameIsFreeAgainWhenItsPodIsGone(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	id := n.run(pod, "c")
	if err := n.m.RemoveContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	n.run(pod, "c")
	if err := n.m.RemovePod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if again := n.pod("a"); again == pod {
		t.Error("the pod that is gone was given again")
	}
	ix := n.m.index
	if len(ix.pods) != 1 || len(ix.podsOf) != 1 || len(ix.containers)+len(ix.containerOf)+len(ix.named) != 0 {
		t.Errorf("the index remembers what is gone: %+v", ix)
	}
}

func TestAFailedCallIsTriedAgain(t *testing.T) {
	n := newFakeNode(t)
	n.shim.onCall(func(method, _ string) *shimapi.Error {
		if method == shimapi.MethodRunPod {
			return &shimapi.Error{Kind: shimapi.KindInternal, Message: "once"}
		}
		return nil
	})
	if _, err := n.m.RunPod(t.Context(), podConfig("a"), ""); err == nil || !strings.Contains(err.Error(), "once") {
		t.Fatalf("the first call: %v", err)
	}
	n.shim.onCall(nil)
	n.pod("a")
}

func TestStopsWithDifferentGraceOverlap(t *testing.T) {
	n := newFakeNode(t)
	id := n.run(n.pod("a"), "c")
	n.shim.ignore(15)
	done := make(chan error, 2)
	began := time.Now()
	for _, grace := range []time.Duration{time.Hour, 50 * time.Millisecond} {
		go func() { done <- n.m.StopContainer(context.Background(), id, grace) }()
	}
	if err := errors.Join(<-done, <-done); err != nil || time.Since(began) > time.Minute {
		t.Errorf("after %v: %v; the shorter grace wins", time.Since(began), err)
	}
}
