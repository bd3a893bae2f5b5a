package shims_test

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/oci/shims"
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
