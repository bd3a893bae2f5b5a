package shim

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// TestAKillThatIsToldLate: a container ends and is deleted while the kills in its cgroup are being
// counted. It is not told of again: nobody would ever delete it.
func TestAKillThatIsToldLate(t *testing.T) {
	ctr := madeContainer(newRegistry(), "c", "p", 10)
	ctr.dir = t.TempDir()
	counter := filepath.Join(ctr.dir, "memory.events")
	if err := unix.Mkfifo(counter, 0o600); err != nil { // a reader waits for what is written
		t.Fatal(err)
	}
	ctr.ooms = &oomCounter{own: counter}
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		ctr.countOOMs()
	}()
	w, err := os.OpenFile(counter, os.O_WRONLY, 0) // returns when the counter is being read
	if err != nil {
		t.Fatal(err)
	}
	ctr.change(shimapi.EventExited, func(rec *shimapi.Record) { setExit(rec, shimapi.ExitStatus{Code: 137}) })
	ctr.hub.forget(ctr.id)
	if _, err := w.WriteString("oom_kill 1\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	<-counted
	if left := ctr.hub.list().Containers; len(left) > 0 {
		t.Errorf("told after it was deleted: %+v", left)
	}
}
