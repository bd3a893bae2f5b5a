package server

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/oci/procfs"
)

func TestOneDaemonPerDirectory(t *testing.T) {
	dir := t.TempDir() + "/root"
	first, err := lockDir(t.Context(), dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lockDir(t.Context(), dir, time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("by the berthd with pid %d:", os.Getpid())) {
		t.Errorf("second lock: got %v, want the holder's pid", err)
	}
	first.release()
	again, err := lockDir(t.Context(), dir, time.Minute) // the one that was given up may have it for a moment
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	again.release()
}

// TestLockOfADaemonThatEnds: one that has given its lock back may write records until it has ended.
func TestLockOfADaemonThatEnds(t *testing.T) {
	dir := t.TempDir()
	// The name of a program is that of its file, of which the kernel keeps 15 bytes.
	program := filepath.Join(t.TempDir(), procfs.Name(os.Getpid()))
	if err := os.Symlink("/bin/sleep", program); err != nil {
		t.Fatal(err)
	}
	before := exec.Command(program, "1000")
	if err := before.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/"+lockName, fmt.Appendln(nil, before.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	waitsForEnd(t, dir, before)
	l, err := lockDir(t.Context(), dir, 0)
	if err != nil {
		t.Fatalf("with the PID of a daemon that has ended: %v", err)
	}
	l.release()
}

// TestLockOfADeadDaemonsChild: a process that a killed daemon had forked holds
// the lock until it executes its program, or ends.
func TestLockOfADeadDaemonsChild(t *testing.T) {
	dir := t.TempDir()
	first, err := lockDir(t.Context(), dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	const dead = 1 << 22 // more than any pid
	if err := os.WriteFile(dir+"/"+lockName, fmt.Appendln(nil, dead), 0o600); err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sleep", "1000")
	child.ExtraFiles = []*os.File{first.f}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	first.release()

	_, err = lockDir(t.Context(), dir, time.Millisecond)
	for _, want := range []string{fmt.Sprintf("pid %d has ended", dead), fmt.Sprintf("%d (sleep)", child.Process.Pid)} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("while the child lives: got %v, want %q in it", err, want)
		}
	}
	waitsForEnd(t, dir, child)
}

// waitsForEnd ends a process, and checks that a lock is had then and not before.
func waitsForEnd(t *testing.T, dir string, process *exec.Cmd) {
	t.Helper()
	var failed error
	done := make(chan struct{})
	go func() {
		defer close(done)
		var l *lock
		if l, failed = lockDir(t.Context(), dir, time.Minute); failed == nil {
			l.release()
		}
	}()
	select {
	case <-done:
		t.Errorf("it did not wait: %v", failed)
	case <-time.After(100 * time.Millisecond): // no event says that it waits
	}
	_ = process.Process.Kill()
	_ = process.Wait() // as killed
	if <-done; failed != nil {
		t.Errorf("after the end of the process: %v", failed)
	}
}
