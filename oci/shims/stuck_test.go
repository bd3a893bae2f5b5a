package shims_test

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/test/client"
	"berth/test/shimnode"
)

// TestStuckShim: a call of a shim that does not answer fails after a while, and new pods go
// to another shim. When the shim answers again it is used again.
func TestStuckShim(t *testing.T) {
	defer shims.SetAnswerPatience(500 * time.Millisecond)()
	n := shimnode.New(t)
	pod := n.Pod()
	first := n.Shim
	r := n.Run(pod, "sleep 100")
	stop(t, first)
	cont := func() { _ = unix.Kill(first.PID(), unix.SIGCONT) }
	defer cont()
	kill := &shimapi.KillRequest{ID: r.ID, Signal: int(unix.SIGKILL)}
	if err := first.Kill(n.Ctx, kill); !errors.Is(err, shims.ErrStuck) {
		t.Errorf("a call of a stopped shim: %v", err)
	}
	first.ForgetStuck() // as if nobody had called it: the new pod finds out
	second, err := n.ForNewPod(n.Ctx)
	if err != nil || second.ID() == first.ID() {
		t.Fatalf("a new pod gets the stuck shim: %v", err)
	}
	second.Release()
	if third, err := n.ForNewPod(n.Ctx); err != nil || third.ID() != second.ID() {
		t.Errorf("another pod gets %v, %v, want the second shim", third, err)
	} else {
		third.Release()
	}
	cont()
	shims.SetAnswerPatience(shims.Patience)
	// It may have read the first request by now, though nobody waits for the answer.
	var refusal *shimapi.Error
	if err := first.Kill(n.Ctx, kill); err != nil && (!errors.As(err, &refusal) || refusal.Kind != shimapi.KindNotRunning) {
		t.Errorf("when it goes on: %v", err)
	}
	if first.Stuck() {
		t.Error("it answers and is still marked")
	}
	n.Exit(r)
}

// TestShimStoppedAtTheStart: a shim that was stopped by SIGSTOP holds up the start of the
// daemon for a bounded time. New pods go to another; when it goes on it is used again, and
// tells what it holds.
func TestShimStoppedAtTheStart(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	r := n.Run(pod, "sleep 100")
	id, pid := n.Shim.ID(), n.Shim.PID()
	stop(t, n.Shim)
	cont := func() { _ = unix.Kill(pid, unix.SIGCONT) }
	defer cont()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	n.Open()
	if took := time.Since(began); took > client.Bound(shims.Patience+5*time.Second) {
		t.Errorf("the start took %v", took)
	}
	sh, err := n.Get(id)
	if err != nil || sh.PID() != pid || !sh.Stuck() || sh.Asked() {
		t.Fatalf("the shim is not there as one that is stuck: %v, %v", sh, err)
	}
	n.Shim = sh
	if other, err := n.ForNewPod(n.Ctx); err != nil || other.ID() == id {
		t.Errorf("a new pod gets the stuck shim: %v", err)
	} else {
		other.Release()
	}
	cont()
	if e := n.Seen.Await(t, shimapi.EventStarted, r.ID); !e.Replay || e.Record.Pod != pod {
		t.Errorf("when it goes on it tells of %+v", e)
	}
	if _, status, err := n.Exec(r, 0, "true"); err != nil || status.Code != 0 {
		t.Errorf("an exec: %+v, %v", status, err)
	}
	if n.Seen.Await(t, shims.EventAnswers, ""); sh.Stuck() || !sh.Asked() {
		t.Error("it answers and is still marked")
	}
	if exited, err := n.ShutDownIfIdle(n.Ctx, sh); exited || err != nil {
		t.Errorf("with a pod it is told to exit: %v, %v", exited, err)
	}
	if err := sh.Kill(n.Ctx, &shimapi.KillRequest{ID: r.ID, Signal: int(unix.SIGKILL)}); err != nil {
		t.Error(err)
	}
	n.Exit(r)
}

// TestManyShimsStoppedAtTheStart: shims that hang hold up the start side by side.
func TestManyShimsStoppedAtTheStart(t *testing.T) {
	n := shimnode.New(t)
	n.Config.PodsPerShim = 1
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.Open()
	var ids []string
	for range 3 {
		n.Pod()
		ids = append(ids, n.Shim.ID())
		stop(t, n.Shim)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	n.Open()
	if took := time.Since(began); took > client.Bound(shims.Patience+5*time.Second) {
		t.Errorf("the start beside %d shims that hang took %v", len(ids), took)
	}
	for _, id := range ids {
		sh, err := n.Get(id)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(sh.PID(), unix.SIGCONT); err != nil {
			t.Error(err)
		}
		shimnode.Eventually(t, "it has told what it holds", sh.Asked)
	}
}
