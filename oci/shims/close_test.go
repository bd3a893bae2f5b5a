package shims_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/test/shimnode"
)

// shimDirs lists the directories of the shims.
func shimDirs(n *shimnode.Node) []string {
	n.T.Helper()
	found, err := filepath.Glob(filepath.Join(n.Config.StateDir, "shims", "*"))
	if err != nil {
		n.T.Fatal(err)
	}
	return found
}

// TestIdleShimsOfADeadDaemonLeave: a daemon may die between the start of a shim and its
// first pod. The next daemon tells the idle shim to exit.
func TestIdleShimsOfADeadDaemonLeave(t *testing.T) {
	for _, version := range []string{"test", "newer"} {
		t.Run(version, func(t *testing.T) {
			n := shimnode.New(t)
			n.Config.PodsPerShim = 1
			n.Reopen()
			pod := n.Pod()
			used := n.Shim
			for range 3 {
				if _, err := n.ForNewPod(n.Ctx); err != nil {
					t.Fatal(err)
				}
			}
			if got := len(shimDirs(n)); got != 4 {
				t.Fatalf("%d shims", got)
			}
			n.Config.Version = version
			n.Reopen()
			if got := shimDirs(n); len(got) != 1 || filepath.Base(got[0]) != used.ID() {
				t.Errorf("after a restart there are %v, want the one with a pod", got)
			}
			sh, err := n.Get(used.ID())
			if err != nil {
				t.Fatal(err)
			}
			if err := sh.RemovePod(n.Ctx, pod); err != nil {
				t.Error(err)
			}
			if got := shimDirs(n); len(got) != 0 {
				t.Errorf("without pods there are %v", got)
			}
		})
	}
}

// TestShimThatNeverServes: the lock of a shim is held while it starts. If the start fails the
// lock is released although the shim never served, and its directory is removed.
func TestShimThatNeverServes(t *testing.T) {
	n := shimnode.New(t)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	lock, err := shims.LockDir(n.Mkdir("state", "shims", "stillborn"))
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { _ = lock.Close() })
	began := time.Now()
	n.Open()
	n.Seen.Await(t, shims.EventGone, "stillborn")
	if took := time.Since(began); took > shims.Patience/2 || len(shimDirs(n)) != 0 {
		t.Errorf("after %v there are %v", took, shimDirs(n))
	}
}

// TestShutdownSparesAReservedShim: a shim that has promised room to a pod does not exit.
func TestShutdownSparesAReservedShim(t *testing.T) {
	n := shimnode.New(t)
	sh, err := n.ForNewPod(n.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Shutdown(n.Ctx); err != nil {
		t.Error(err)
	}
	if _, err := sh.Ping(n.Ctx); err != nil {
		t.Errorf("the shim left: %v", err)
	}
	sh.Release()
}

// TestShutDownTwice: two calls tell the same shim to exit, and both see that it has exited.
func TestShutDownTwice(t *testing.T) {
	n := shimnode.New(t)
	for range 5 {
		sh, err := n.ForNewPod(n.Ctx)
		if err != nil {
			t.Fatal(err)
		}
		sh.Release()
		stop(t, sh)
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				if left, err := n.ShutDownIfIdle(n.Ctx, sh); err != nil || !left {
					t.Errorf("left %v, %v", left, err)
				}
			})
		}
		shimnode.Eventually(t, "it is asked", sh.Leaving)
		resume(t, sh)
		both.Wait()
	}
}

func stop(t *testing.T, sh *shims.Shim) {
	t.Helper()
	if err := unix.Kill(sh.PID(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	shimnode.Eventually(t, "every thread has stopped", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", sh.PID()))
		return !slices.ContainsFunc(threads, func(file string) bool {
			stat, err := os.ReadFile(file)
			return err == nil && !bytes.Contains(stat, []byte(") T "))
		})
	})
}

func resume(t *testing.T, sh *shims.Shim) {
	t.Helper()
	if err := unix.Kill(sh.PID(), unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// TestUncertainShutdown: a shim that was told to exit and has not answered gets no pods,
// because it may still exit.
func TestUncertainShutdown(t *testing.T) {
	n := shimnode.New(t)
	sh, err := n.ForNewPod(n.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	sh.Release()
	stop(t, sh)
	gone := sh.Ended()
	ctx, cancel := context.WithTimeout(n.Ctx, 50*time.Millisecond)
	defer cancel()
	if left, err := n.ShutDownIfIdle(ctx, sh); left || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("left %v, %v", left, err)
	}
	n.Pod()
	if n.Shim.ID() == sh.ID() {
		t.Error("the shim that may leave was given a pod")
	}
	resume(t, sh)
	<-gone
}

// TestCloseEndsWhatComesLate: nothing is started, watched or kept after Close.
func TestCloseEndsWhatComesLate(t *testing.T) {
	n := shimnode.New(t)
	sh, err := n.ForNewPod(n.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	sh.Release()
	n.Config.PodsPerShim = 1
	n.Reopen()
	started := make(chan error, 4)
	for range cap(started) {
		go func() {
			_, err := n.ForNewPod(n.Ctx)
			started <- err
		}()
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	for range cap(started) {
		if err := <-started; err != nil && !errors.Is(err, shims.ErrClosed) {
			t.Error(err)
		}
	}
	before := len(shimDirs(n))
	if _, err := n.ForNewPod(n.Ctx); !errors.Is(err, shims.ErrClosed) {
		t.Errorf("a shim after Close: %v", err)
	}
	if got := len(shimDirs(n)); got != before {
		t.Errorf("%d shims, before %d", got, before)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sh.Keep(shimapi.HandoverState{ID: "late", Files: []string{shimapi.FileStdout}}, []*os.File{w})
	if _, err := r.Read(make([]byte, 1)); err == nil {
		t.Error("the pipe is kept open")
	}
	n.Open()
}

// TestCloseInTheMiddleOfAHandover: Close completes the handover of a shim that has just
// died, because only this daemon has the files of its containers.
func TestCloseInTheMiddleOfAHandover(t *testing.T) {
	n := shimnode.New(t)
	r := n.Run(n.Pod(), shimnode.Counting)
	shimnode.WaitLog(t, r.LogPath, "n100\n")
	was, gone := n.Shim, n.Shim.Ended()
	if err := unix.Kill(was.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-gone
	n.Reopen()
	again, err := n.Get(was.ID())
	if err != nil {
		t.Fatal(err)
	}
	n.Shim = again
	size := shimnode.LogSize(r)
	shimnode.Eventually(t, "the log grows again", func() bool { return shimnode.LogSize(r) > size+1000 })
	if _, status, err := n.Exec(r, 0, "true"); err != nil || status.Code != 0 {
		t.Errorf("exec: %+v, %v", status, err)
	}
	// The parent of the container is the first daemon, which would have ended.
	pid := shimnode.ReadRecord(t, r.Dir).PID
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
		t.Error(err)
	}
	if rec := n.Exit(r); rec.ExitCode != 137 {
		t.Errorf("record %+v", rec)
	}
}
