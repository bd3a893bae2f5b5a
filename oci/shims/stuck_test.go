package shims

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// TestStuckShim: one that does not answer holds up neither a verb for ever nor the
// pods that come; when it goes on, so do its own.
func TestStuckShim(t *testing.T) {
	defer func(was time.Duration) { answerPatience = was }(answerPatience)
	answerPatience = 500 * time.Millisecond
	n := newShimNode(t)
	pod := n.pod()
	first := n.shim
	r := n.run(pod, "sleep 100")
	stop(t, first)
	cont := func() { _ = unix.Kill(first.PID(), unix.SIGCONT) }
	defer cont()
	kill := &shimapi.KillRequest{ID: r.ID, Signal: int(unix.SIGKILL)}
	if err := first.Kill(n.ctx, kill); !errors.Is(err, ErrStuck) {
		t.Errorf("a call of a stopped shim: %v", err)
	}
	first.process.stuck.Store(false) // as if nobody had called it: the new pod finds out
	second, err := n.ForNewPod(n.ctx)
	if err != nil || second.ID() == first.ID() {
		t.Fatalf("a new pod gets the stuck shim: %v", err)
	}
	second.Release()
	if third, err := n.ForNewPod(n.ctx); err != nil || third.ID() != second.ID() {
		t.Errorf("another pod gets %v, %v, want the second shim", third, err)
	} else {
		third.Release()
	}
	cont()
	answerPatience = patience
	// It may have read the first request by now, though nobody waits for the answer.
	var told *shimapi.Error
	if err := first.Kill(n.ctx, kill); err != nil && (!errors.As(err, &told) || told.Kind != shimapi.KindNotRunning) {
		t.Errorf("when it goes on: %v", err)
	}
	if first.process.stuck.Load() {
		t.Error("it answers and is still marked")
	}
	n.exit(r)
}
