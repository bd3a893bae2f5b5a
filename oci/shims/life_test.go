package shims_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/test/shimnode"
)

// TestClientRestart closes the client and opens another. Containers run meanwhile, and what
// happened is reported to the new client.
func TestClientRestart(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	stays := n.Run(pod, "i=0; while :; do echo $i; i=$((i+1)); usleep 20000; done")
	ends := n.Run(pod, "trap 'exit 6' TERM; echo ready; while :; do sleep 1 & wait; done")
	shimnode.WaitLog(t, ends.LogPath, "ready")
	id, pid := n.Shim.ID(), n.Shim.PID()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	started := shimnode.ReadRecord(t, ends.Dir)
	if err := unix.Kill(started.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	shimnode.Eventually(t, "the exit is on disk", func() bool { return shimnode.ReadRecord(t, ends.Dir).Status == shimapi.StatusStopped })
	before := len(n.Output(stays))
	shimnode.Eventually(t, "the log grows without a client", func() bool { return len(n.Output(stays)) > before })
	n.Open()
	sh, err := n.Get(id)
	if err != nil || sh.PID() != pid {
		t.Fatalf("%+v, %v", sh, err)
	}
	n.Shim = sh
	if rec := n.Exit(ends); rec.ExitCode != 6 {
		t.Errorf("code %d, signal %d", rec.ExitCode, rec.Signal)
	}
	if e := n.Seen.Await(t, shimapi.EventStarted, stays.ID); !e.Replay || e.Record.Pod != pod {
		t.Errorf("event %+v", e)
	}
	n.Seen.Await(t, shimapi.EventStarted, pod)
	if again, err := n.ForNewPod(n.Ctx); err != nil || again.ID() != id {
		t.Errorf("%+v, %v", again, err)
	} else {
		again.Release()
	}
	if _, status, err := n.Exec(stays, 0, "true"); err != nil || status.Code != 0 {
		t.Errorf("%+v, %v", status, err)
	}
}

// TestMoreEventsThanAreHeld: a daemon finds more dead shims at its start than the channel of
// events holds, and reads none of them yet, as in a recovery: neither the start nor a call to
// a living shim waits for that, and no event is lost.
func TestMoreEventsThanAreHeld(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	const dead = 200 // the channel holds 64
	for i := range dead {
		if err := os.Mkdir(filepath.Join(n.Config.StateDir, "shims", fmt.Sprintf("dead-%d", i)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	set, err := shims.Open(n.Ctx, n.Config)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Open()
	defer set.Close()
	alive, err := set.Get(n.Shim.ID())
	if err != nil {
		t.Fatal(err)
	}
	if held, err := alive.List(n.Ctx); err != nil || len(held.Pods) != 1 || held.Pods[0].ID != pod {
		t.Errorf("the living shim holds %+v, %v", held, err)
	}
	gone := map[string]bool{}
	for len(gone) < dead {
		select {
		case e := <-set.Events():
			if e.Kind == shims.EventGone {
				gone[e.ShimID] = true
			}
		case <-n.Ctx.Done():
			t.Fatalf("%d of %d shims are told to be gone: %v", len(gone), dead, n.Ctx.Err())
		}
	}
}

// TestShimHasItsName: ps, top and pgrep know a shim by the name of its program, though it is
// executed from a descriptor, and tests its threads.
func TestShimHasItsName(t *testing.T) {
	n := shimnode.New(t)
	n.Pod()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/comm", n.Shim.PID()))
	if err != nil || len(threads) < 2 {
		t.Fatalf("threads %q, %v", threads, err)
	}
	for _, file := range threads {
		if name, err := os.ReadFile(file); err != nil || string(name) != "berth-shim\n" {
			t.Errorf("%s: %q, %v", file, name, err)
		}
	}
}

// TestReplacementCanNotBeStartedYet: while no process can be started, the containers of a dead
// shim run on, and a call waits; then another shim takes over.
func TestReplacementCanNotBeStartedYet(t *testing.T) {
	n := shimnode.New(t)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	binary, link := n.Config.Binary, filepath.Join(n.Dir, "berth-shim")
	leadsTo := func(target string) {
		if err := errors.Join(os.Symlink(target, link+"-new"), os.Rename(link+"-new", link)); err != nil {
			t.Fatal(err)
		}
	}
	leadsTo(binary)
	n.Config.Binary = link
	n.Open()
	r := n.Run(n.Pod(), "sleep 100")
	id := n.Shim.ID()
	leadsTo("berth-shim") // itself, for which the kernel has an error that is not that of a missing file
	if err := unix.Kill(n.Shim.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.Seen.Await(t, shims.EventDelayed, id)
	restore := shims.SetAnswerPatience(200 * time.Millisecond)
	if _, err := n.Shim.List(n.Ctx); !errors.Is(err, shims.ErrDelayed) || errors.Is(err, shims.ErrGone) {
		t.Errorf("a call that has waited for long enough: %v", err)
	}
	restore()
	called := make(chan error, 1)
	go func() {
		_, err := n.Shim.List(n.Ctx)
		called <- err
	}()
	select {
	case err := <-called:
		t.Fatalf("a call did not wait: %v", err)
	case <-time.After(50 * time.Millisecond): // that it waits shows only in time
	}
	leadsTo(binary)
	n.Seen.Await(t, shims.EventReplaced, id)
	if err := <-called; err != nil {
		t.Errorf("the call that waited: %v", err)
	}
	if n.Shim, _ = n.Get(id); n.Shim == nil {
		t.Fatal("the shim is gone")
	}
	if err := n.Shim.Kill(n.Ctx, &shimapi.KillRequest{ID: r.ID, Signal: int(unix.SIGKILL)}); err != nil {
		t.Error(err)
	}
	if rec := n.Exit(r); rec.ExitCode != 137 {
		t.Errorf("the container ended with %d", rec.ExitCode)
	}
}

// TestShimDiesForGood: no replacement can be started, so the shim is reported as gone.
func TestShimDiesForGood(t *testing.T) {
	n := shimnode.New(t)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	binary, link := n.Config.Binary, filepath.Join(n.Dir, "berth-shim")
	if err := os.Symlink(binary, link); err != nil {
		t.Fatal(err)
	}
	n.Config.Binary = link
	n.Open()
	pod := n.Pod()
	pause := n.PodRecord(pod)
	id := n.Shim.ID()
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(n.Shim.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.Seen.Await(t, shims.EventGone, id)
	if _, err := n.Get(id); !errors.Is(err, shims.ErrGone) {
		t.Errorf("get: %v", err)
	}
	if err := n.Shim.StopPod(n.Ctx, pod); !errors.Is(err, shims.ErrGone) {
		t.Errorf("call: %v", err)
	}
	if _, err := n.Shim.List(n.Ctx); !errors.Is(err, shims.ErrGone) {
		t.Errorf("list: %v", err)
	}
	if shimnode.OnDisk(filepath.Join(n.Config.StateDir, "shims", id)) {
		t.Error("its directory is left")
	}
	// What it was the parent of is the daemon's to clear away.
	if err := unix.Kill(pause.PID, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	netns := filepath.Join(n.Dir, "state", "pods", pod, "net")
	if err := unix.Unmount(netns, unix.MNT_DETACH); err != nil {
		t.Error(err)
	}
	shimnode.Eventually(t, "pause has ended", func() bool { return !shimnode.OnDisk(fmt.Sprintf("/proc/%d/root", pause.PID)) })
	if err := os.Symlink(binary, link); err != nil {
		t.Fatal(err)
	}
	n.Pod() // by another shim
	if n.Shim.ID() == id {
		t.Error("the dead shim was chosen")
	}
}

// TestShimDiesUnseen: the shim dies while there is no client. The next one reports it.
func TestShimDiesUnseen(t *testing.T) {
	n := shimnode.New(t)
	sh, err := n.ForNewPod(n.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(sh.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	shimnode.Eventually(t, "the lock is free", func() bool {
		f, err := shims.LockDir(sh.Dir())
		if err == nil {
			_ = f.Close()
		}
		return err == nil
	})
	n.Open()
	n.Seen.Await(t, shims.EventGone, sh.ID())
	if shimnode.OnDisk(sh.Dir()) {
		t.Error("its directory is left")
	}
}

func TestPodsPerShim(t *testing.T) {
	n := shimnode.New(t)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.Config.PodsPerShim = 2
	n.Open()
	pods := map[string]int{}
	var last string
	for range 3 {
		last = n.Pod()
		pods[n.Shim.ID()]++
	}
	if len(pods) != 2 {
		t.Fatalf("pods per shim %v", pods)
	}
	alone := n.Shim
	if pods[alone.ID()] != 1 {
		t.Fatalf("pods per shim %v", pods)
	}
	if err := alone.RemovePod(n.Ctx, last); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Get(alone.ID()); !errors.Is(err, shims.ErrGone) {
		t.Errorf("the empty shim stays: %v", err)
	}
	for id := range pods {
		if sh, err := n.Get(id); err == nil {
			n.Shim = sh
		}
	}
}

func TestOtherVersionDrains(t *testing.T) {
	n := shimnode.New(t)
	old := n.Pod()
	oldShim := n.Shim.ID()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.Config.Version = "newer"
	n.Open()
	n.Pod()
	if n.Shim.ID() == oldShim {
		t.Error("a new pod went to an old shim")
	}
	sh, err := n.Get(oldShim)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Shutdown(n.Ctx); err != nil { // both hold pods
		t.Error(err)
	}
	if err := sh.RemovePod(n.Ctx, old); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Get(oldShim); !errors.Is(err, shims.ErrGone) {
		t.Errorf("the old shim stays: %v", err)
	}
}

func TestShimBinaryMissing(t *testing.T) {
	n := shimnode.New(t)
	n.SetBinary("/no/such/berth-shim")
	if _, err := n.ForNewPod(n.Ctx); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "/no/such/berth-shim") {
		t.Errorf("%v", err)
	}
	n.SetBinary("/bin/busybox")
	if _, err := n.ForNewPod(n.Ctx); err == nil {
		t.Error("busybox was taken for a shim")
	}
	if left, _ := os.ReadDir(filepath.Join(n.Config.StateDir, "shims")); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}
