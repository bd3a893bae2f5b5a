package shim_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/test/shimnode"
)

func TestExec(t *testing.T) {
	n := shimnode.New(t)
	r := n.Run(n.Pod(), "sleep 1000")
	out, status, err := n.Exec(r, 0, "sh", "-c", "echo out; echo err >&2; pwd; exit 9")
	if err != nil || status.Code != 9 || out != "out\nerr\n/\n" || status.FinishedAt.IsZero() {
		t.Errorf("%q, %+v, %v", out, status, err)
	}
	if _, status, err = n.Exec(r, 0, "sh", "-c", "kill -KILL $$"); err != nil || status.Code != 137 || status.Signal != 9 || status.TimedOut {
		t.Errorf("%+v, %v", status, err)
	}
	for want, args := range map[string][]string{
		`command "none": executable file not found in $PATH`:   {"none"},
		`command "/bin/none": no such file or directory`:       {"/bin/none"},
		`command "/etc": is a directory`:                       {"/etc"},
		`working directory "/none": no such file or directory`: nil,
		`working directory "/proc/self/comm": not a directory`: {"true"},
		"1 to 64 letters": {"x"},
	} {
		x := &shimapi.ExecRequest{ExecID: "bad", Process: &specs.Process{Args: args}}
		switch {
		case args == nil:
			x.Process.Args, x.Process.Cwd = []string{"true"}, "/none"
		case args[0] == "true":
			x.Process.Cwd = "/proc/self/comm"
		case args[0] == "x":
			x.ExecID = "../x"
		}
		if _, _, err := n.ExecAs(r, x); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	n.NoSessions(r)
}

func TestExecEndsItsTree(t *testing.T) {
	n := shimnode.New(t)
	r := n.Run(n.Pod(), "sleep 1000")
	script := "setsid sh -c 'sleep 2000 & sleep 2001' & sleep 2002"
	alive := func() int {
		found := 0
		procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, p := range procs {
			cmdline, _ := os.ReadFile(p)
			cgroup, _ := os.ReadFile(filepath.Dir(p) + "/cgroup")
			if bytes.Contains(cmdline, []byte("sleep\x00200")) && bytes.Contains(cgroup, []byte(r.ID)) {
				found++
			}
		}
		return found
	}
	began := time.Now()
	_, status, err := n.Exec(r, 300*time.Millisecond, "sh", "-c", script)
	if err != nil || !status.TimedOut || status.Code != 137 {
		t.Errorf("%+v, %v", status, err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("timeout of 300 ms took %v", took)
	}
	if left := alive(); left != 0 {
		t.Errorf("timeout left %d processes", left)
	}

	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	start := func() *shims.ExecSession {
		x := &shimapi.ExecRequest{ID: r.ID, ExecID: shimnode.NewID()[:8], Process: &specs.Process{Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin"}}}
		session, err := n.Shim.Exec(n.Ctx, x, []*os.File{null, null, null})
		if err != nil {
			t.Fatal(err)
		}
		shimnode.Eventually(t, "the tree runs", func() bool { return alive() == 3 })
		return session
	}
	session := start()
	session.Close() // the client hangs up
	shimnode.Eventually(t, "hang-up ends the tree", func() bool { return alive() == 0 })
	session = start()
	if err := session.Kill(); err != nil {
		t.Error(err)
	}
	if status, err := session.Wait(n.Ctx); err != nil || status.Code != 137 || alive() != 0 {
		t.Errorf("%+v, %v, %d alive", status, err, alive())
	}
	session.Close()

	// A daemon that a command leaves behind on its own accord is the container's.
	if _, status, err := n.Exec(r, 0, "sh", "-c", "setsid sleep 2003 >/dev/null 2>&1 </dev/null & exit 0"); err != nil || status.Code != 0 {
		t.Errorf("%+v, %v", status, err)
	}
	shimnode.Eventually(t, "the daemon lives, and executes its program", func() bool { return alive() == 1 })
	n.NoSessions(r)
}

func TestExecTerminal(t *testing.T) {
	n := shimnode.New(t)
	r := n.Run(n.Pod(), "sleep 1000")
	x := &shimapi.ExecRequest{ID: r.ID, ExecID: "tty", Terminal: true, Process: &specs.Process{
		Args: []string{"sh", "-c", "stty size; read line; echo got $line; stty size"}, Env: []string{"PATH=/bin"},
		ConsoleSize: &specs.Box{Width: 101, Height: 33}, Terminal: true,
	}}
	session, err := n.Shim.Exec(n.Ctx, x, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	out := &shimnode.Buffer{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(out, session.Console) // EIO is its end
	}()
	shimnode.Eventually(t, "the size is printed", func() bool { return strings.Contains(out.String(), "33 101") })
	if err := session.Resize(77, 22); err != nil {
		t.Fatal(err)
	}
	if _, err := session.Console.WriteString("hello\n"); err != nil {
		t.Fatal(err)
	}
	if status, err := session.Wait(n.Ctx); err != nil || status.Code != 0 {
		t.Errorf("%+v, %v", status, err)
	}
	<-done
	if !strings.Contains(out.String(), "got hello") || !strings.Contains(out.String(), "22 77") {
		t.Errorf("output %q", out)
	}
}

func TestExecWhenContainerEnds(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	r := n.Run(pod, "sleep 1000")
	created := n.Request(pod, "true")
	if _, err := n.Shim.Create(n.Ctx, created); err != nil {
		t.Fatal(err)
	}
	if _, _, err := n.Exec(created, 0, "true"); shimnode.KindOfError(err) != shimapi.KindNotRunning {
		t.Errorf("exec before start: %v", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	session, err := n.Shim.Exec(n.Ctx, &shimapi.ExecRequest{
		ID: r.ID, ExecID: "x", Process: &specs.Process{Args: []string{"/bin/sleep", "1000"}},
	}, []*os.File{null, null, null})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if err := n.Shim.Kill(n.Ctx, &shimapi.KillRequest{ID: r.ID, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	n.Exit(r)
	if status, err := session.Wait(n.Ctx); err != nil || status.Signal != 9 {
		t.Errorf("%+v, %v", status, err)
	}
	if _, _, err := n.Exec(r, 0, "true"); shimnode.KindOfError(err) != shimapi.KindNotRunning {
		t.Errorf("exec after the end: %v", err)
	}
}

func TestParallelExecs(t *testing.T) {
	n := shimnode.New(t)
	r := n.Run(n.Pod(), "sleep 1000")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			out, status, err := n.Exec(r, 0, "sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i))
			if err != nil || status.Code != i || out != fmt.Sprintf("%d\n", i) {
				t.Errorf("exec %d: %q, %+v, %v", i, out, status, err)
			}
		})
	}
	all.Wait()
	n.NoSessions(r)
}
