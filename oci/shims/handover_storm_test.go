package shims

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// TestHandoverStorm kills shim after shim while containers come and go. A verb may
// fail as the shim dies in it, but what succeeded stays true, and nothing is left.
func TestHandoverStorm(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	pause, shim := n.podRecord(pod), n.shim.ID()
	stays := n.run(pod, "i=0; while :; do echo n$i; i=$((i+1)); usleep 2000; done")
	stop := make(chan struct{})
	var kills, made, failed int
	var killer sync.WaitGroup
	killer.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(2000+rand.IntN(300)) * time.Millisecond):
			}
			if sh, err := n.Get(shim); err == nil && unix.Kill(sh.PID(), unix.SIGKILL) == nil {
				kills++
			}
		}
	})
	for began := time.Now(); time.Since(began) < 6*time.Second; {
		r := n.request(pod, "echo hello; exit 6")
		_, err := n.shim.Create(n.ctx, r)
		if err == nil {
			err = n.shim.Start(n.ctx, r.ID)
		}
		switch {
		case errors.Is(err, ErrGone):
			failed++
		case err != nil:
			t.Error(err)
		default:
			made++
			if rec := n.exit(r); rec.ExitCode != 6 || n.output(r) != "hello\n" {
				t.Errorf("record %+v, output %q", rec, n.output(r))
			}
		}
		if err := n.shim.Delete(n.ctx, r.ID); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	close(stop)
	killer.Wait()
	var err error
	if n.shim, err = n.Get(shim); err != nil {
		t.Fatal(err)
	}
	if now := n.podRecord(pod); now.PID != pause.PID || now.Status != shimapi.StatusRunning {
		t.Errorf("pause %+v", now)
	}
	before := logSize(stays)
	eventually(t, "the log grows", func() bool { return logSize(stays) > before })
	_, missing, gaps := numbers(t, n.output(stays))
	t.Logf("%d kills, %d containers ran, %d failed; %d lines missing in %d gaps", kills, made, failed, missing, gaps)
	if gaps > kills || made == 0 {
		t.Errorf("%d gaps", gaps)
	}
	if held, err := n.shim.List(n.ctx); err != nil || len(held.Containers) != 1 {
		t.Errorf("held: %+v, %v", held, err)
	}
}
