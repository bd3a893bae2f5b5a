package shims_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/test/shimnode"
)

// orphan is a child of ours that stands for the first process of a container.
type orphan struct {
	pid   int
	stdin io.Closer // its end lets the process exit with 7
}

func newOrphan(t *testing.T) (orphan, *os.File) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "read x; exit 7")
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()         // it may be closed
		_ = cmd.Process.Release() // the set waits for it
	})
	fd, err := unix.PidfdOpen(cmd.Process.Pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	return orphan{cmd.Process.Pid, stdin}, os.NewFile(uintptr(fd), "pidfd")
}

// end lets the process exit, and waits until it was reaped.
func (o orphan) end(t *testing.T) {
	if err := o.stdin.Close(); err != nil {
		t.Error(err)
	}
	proc := fmt.Sprintf("/proc/%d", o.pid)
	for end := time.Now().Add(10 * time.Second); shimnode.OnDisk(proc); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Error("a child is not reaped")
			return
		}
	}
}

// TestExitIsReportedDuringAHandover: a container that was adopted ends while the same shim adopts
// another, and the other ends as well. The shim is told how at once: it does not wait for long
// for the status of a process that has ended.
func TestExitIsReportedDuringAHandover(t *testing.T) {
	orphans := map[string]orphan{}
	told := make(chan string, 8)
	first := make(chan string, 1)
	var adoptions atomic.Int32
	s := newStubs(t, func(c stubCall) stubVerdict {
		switch {
		case c.Method == shimapi.MethodReportExit:
			var r shimapi.ReportExitRequest
			if err := json.Unmarshal(c.Body, &r); err != nil || r.Exit.Code != 7 {
				t.Errorf("told of %+v, %v, want the code 7", r, err)
			}
			told <- r.ID
		case c.Method == shimapi.MethodAdopt && c.id(t) != "p" && adoptions.Add(1) == 1:
			first <- c.id(t)
		case c.Method == shimapi.MethodAdopt && c.id(t) != "p":
			id := <-first
			orphans[id].end(t)
			awaitReport(t, told, id)
			orphans[c.id(t)].end(t)
		}
		return stubVerdict{}
	})
	for _, id := range []string{"a", "b"} {
		o, pidfd := newOrphan(t)
		orphans[id] = o
		s.shim.Keep(shimapi.HandoverState{ID: id, Pod: "p", Files: []string{shimapi.FilePidfd}}, []*os.File{pidfd})
	}
	s.kill()
	s.next(shims.EventReplaced)
	awaitReport(t, told, "a", "b") // the one that ended before it was adopted
}

// awaitReport waits until the shim is told of the end of one of the containers.
func awaitReport(t *testing.T, told <-chan string, ids ...string) {
	select {
	case id := <-told:
		for _, want := range ids {
			if id == want {
				return
			}
		}
		t.Errorf("told of the end of %q, want one of %q", id, ids)
	case <-time.After(5 * time.Second): // as long as the shim waits
		t.Errorf("not told of the end of %q", ids)
	}
}
