package shims

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
)

// shimDirs are the directories of the shims there are.
func (n *shimNode) shimDirs() []string {
	n.t.Helper()
	found, err := filepath.Glob(filepath.Join(n.config.StateDir, "shims", "*"))
	if err != nil {
		n.t.Fatal(err)
	}
	return found
}

// TestIdleShimsOfADeadDaemonLeave: a daemon that dies between the start of a shim
// and its first pod leaves it to the next, which may never use it.
func TestIdleShimsOfADeadDaemonLeave(t *testing.T) {
	for _, version := range []string{"test", "newer"} {
		t.Run(version, func(t *testing.T) {
			n := newShimNode(t)
			n.config.PodsPerShim = 1
			n.reopen()
			pod := n.pod()
			used := n.shim
			for range 3 {
				if _, err := n.ForNewPod(n.ctx); err != nil {
					t.Fatal(err)
				}
			}
			if got := len(n.shimDirs()); got != 4 {
				t.Fatalf("%d shims", got)
			}
			n.config.Version = version
			n.reopen()
			if got := n.shimDirs(); len(got) != 1 || filepath.Base(got[0]) != used.ID() {
				t.Errorf("after a restart there are %v, want the one with a pod", got)
			}
			sh, err := n.Get(used.ID())
			if err != nil {
				t.Fatal(err)
			}
			if err := sh.RemovePod(n.ctx, pod); err != nil {
				t.Error(err)
			}
			if got := n.shimDirs(); len(got) != 0 {
				t.Errorf("without pods there are %v", got)
			}
		})
	}
}

// reopen is another daemon, with the configuration of now.
func (n *shimNode) reopen() {
	n.t.Helper()
	if err := n.Close(); err != nil {
		n.t.Fatal(err)
	}
	n.open()
}

// TestShimThatNeverServes: the lock of a shim is held while it is started, and may
// be let go of without that it ever served.
func TestShimThatNeverServes(t *testing.T) {
	n := newShimNode(t)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	lock, err := lockDir(n.mkdir("state", "shims", "stillborn"))
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { _ = lock.Close() })
	began := time.Now()
	n.open()
	n.seen.await(t, EventGone, "stillborn")
	if took := time.Since(began); took > patience/2 || len(n.shimDirs()) != 0 {
		t.Errorf("after %v there are %v", took, n.shimDirs())
	}
}

// TestShutdownSparesAReservedShim: a pod was promised to it.
func TestShutdownSparesAReservedShim(t *testing.T) {
	n := newShimNode(t)
	sh, err := n.ForNewPod(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Shutdown(n.ctx); err != nil {
		t.Error(err)
	}
	if _, err := sh.Ping(n.ctx); err != nil {
		t.Errorf("the shim left: %v", err)
	}
	sh.Release()
}

// TestShutDownTwice: each of two that ask a shim to leave sees it gone.
func TestShutDownTwice(t *testing.T) {
	n := newShimNode(t)
	for range 5 {
		sh, err := n.ForNewPod(n.ctx)
		if err != nil {
			t.Fatal(err)
		}
		sh.Release()
		stop(t, sh)
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				if left, err := n.shutDownIfIdle(n.ctx, sh); err != nil || !left {
					t.Errorf("left %v, %v", left, err)
				}
			})
		}
		eventually(t, "it is asked", func() bool {
			n.Set.mu.Lock()
			defer n.Set.mu.Unlock()
			return sh.leaving
		})
		resume(t, sh)
		both.Wait()
	}
}

func stop(t *testing.T, sh *Shim) {
	t.Helper()
	if err := unix.Kill(sh.PID(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "every thread has stopped", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", sh.PID()))
		return !slices.ContainsFunc(threads, func(file string) bool {
			stat, err := os.ReadFile(file)
			return err == nil && !bytes.Contains(stat, []byte(") T "))
		})
	})
}

func resume(t *testing.T, sh *Shim) {
	t.Helper()
	if err := unix.Kill(sh.PID(), unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// TestUncertainShutdown: a shim that was asked to leave and has not answered gets
// no pods, since it may go.
func TestUncertainShutdown(t *testing.T) {
	n := newShimNode(t)
	sh, err := n.ForNewPod(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	sh.Release()
	stop(t, sh)
	gone := ended(sh)
	ctx, cancel := context.WithTimeout(n.ctx, 50*time.Millisecond)
	defer cancel()
	if left, err := n.shutDownIfIdle(ctx, sh); left || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("left %v, %v", left, err)
	}
	n.pod()
	if n.shim.ID() == sh.ID() {
		t.Error("the shim that may leave was given a pod")
	}
	resume(t, sh)
	<-gone
}

// TestCloseEndsWhatComesLate: nothing is started, watched or kept after Close.
func TestCloseEndsWhatComesLate(t *testing.T) {
	n := newShimNode(t)
	sh, err := n.ForNewPod(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	sh.Release()
	n.config.PodsPerShim = 1
	n.reopen()
	started := make(chan error, 4)
	for range cap(started) {
		go func() {
			_, err := n.ForNewPod(n.ctx)
			started <- err
		}()
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	for range cap(started) {
		if err := <-started; err != nil && !errors.Is(err, errClosed) {
			t.Error(err)
		}
	}
	before := len(n.shimDirs())
	if _, err := n.ForNewPod(n.ctx); !errors.Is(err, errClosed) {
		t.Errorf("a shim after Close: %v", err)
	}
	if got := len(n.shimDirs()); got != before {
		t.Errorf("%d shims, before %d", got, before)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sh.keep(sh.process, shimapi.HandoverState{ID: "late", Files: []string{shimapi.FileStdout}}, []*os.File{w})
	if _, err := r.Read(make([]byte, 1)); err == nil {
		t.Error("the pipe is kept open")
	}
	n.open()
}

// TestCloseInTheMiddleOfAHandover: a daemon that is told to end when a shim has
// just died is the only one that can save its containers.
func TestCloseInTheMiddleOfAHandover(t *testing.T) {
	n := newShimNode(t)
	r := n.run(n.pod(), counting)
	waitLog(t, r.LogPath, "n100\n")
	was, gone := n.shim, ended(n.shim)
	if err := unix.Kill(was.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-gone
	n.reopen()
	again, err := n.Get(was.ID())
	if err != nil {
		t.Fatal(err)
	}
	n.shim = again
	size := logSize(r)
	eventually(t, "the log grows again", func() bool { return logSize(r) > size+1000 })
	if _, status, err := n.exec(r, 0, "true"); err != nil || status.Code != 0 {
		t.Errorf("exec: %+v, %v", status, err)
	}
	// The parent of the container is the first daemon, which would have ended.
	pid := readRecord(t, r.Dir).PID
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
		t.Error(err)
	}
	if rec := n.exit(r); rec.ExitCode != 137 {
		t.Errorf("record %+v", rec)
	}
}
