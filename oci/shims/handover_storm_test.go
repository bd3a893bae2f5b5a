package shims_test

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/test/shimnode"
)

// TestHandoverStorm kills shim after shim while containers are made and deleted. A call may
// fail when the shim dies during it. What a call has done successfully stays done, and
// nothing is left in the end.
func TestHandoverStorm(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	pause, shim := n.PodRecord(pod), n.Shim.ID()
	stays := n.Run(pod, "i=0; while :; do echo n$i; i=$((i+1)); usleep 2000; done")
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
		r := n.Request(pod, "echo hello; exit 6")
		_, err := n.Shim.Create(n.Ctx, r)
		if err == nil {
			err = n.Shim.Start(n.Ctx, r.ID)
		}
		switch {
		case errors.Is(err, shims.ErrGone):
			failed++
		case err != nil:
			t.Error(err)
		default:
			made++
			if rec := n.Exit(r); rec.ExitCode != 6 || n.Output(r) != "hello\n" {
				t.Errorf("record %+v, output %q", rec, n.Output(r))
			}
		}
		if err := n.Shim.Delete(n.Ctx, r.ID); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	close(stop)
	killer.Wait()
	var err error
	if n.Shim, err = n.Get(shim); err != nil {
		t.Fatal(err)
	}
	if now := n.PodRecord(pod); now.PID != pause.PID || now.Status != shimapi.StatusRunning {
		t.Errorf("pause %+v", now)
	}
	before := shimnode.LogSize(stays)
	shimnode.Eventually(t, "the log grows", func() bool { return shimnode.LogSize(stays) > before })
	shimnode.Numbers(t, n.Output(stays))
	t.Logf("%d kills, %d containers ran, %d failed", kills, made, failed)
	if made == 0 {
		t.Error("no container ran")
	}
	if held, err := n.Shim.List(n.Ctx); err != nil || len(held.Containers) != 1 {
		t.Errorf("held: %+v, %v", held, err)
	}
}
