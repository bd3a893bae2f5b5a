package shim_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/test/shimnode"
)

// TestHandoverKeepsUnreadLines stops the shim before it kills it.
func TestHandoverKeepsUnreadLines(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	r := n.Run(pod, "read go; i=0; while [ $i -lt 5000 ]; do echo n$i; i=$((i+1)); done; exit 21", shimnode.WithStdin(false))
	c := n.Attach(r)
	if _, err := c.In.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	shimnode.WaitLog(t, r.LogPath, "n50\n")
	pid := n.Shim.PID()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	_ = c
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.TakeReplacement(n.Shim.ID(), pid)
	if rec := n.Exit(r); rec.ExitCode != 21 || rec.Reason != "" {
		t.Errorf("record %+v", rec)
	}
	if last := shimnode.Numbers(t, n.Output(r)); last != 4999 {
		t.Errorf("the last line is %d", last)
	}
}

// TestEndsInTheGap: containers end between the death of their shim and the adoption by its
// replacement. Their exit status is recorded all the same.
func TestEndsInTheGap(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	slow := n.Run(pod, "trap 'echo bye; exit 33' TERM; echo ready; while :; do usleep 5000; done")
	killed := n.Run(pod, "echo ready; sleep 1000")
	created := n.Request(pod, "echo started; exit 3")
	if _, err := n.Shim.Create(n.Ctx, created); err != nil {
		t.Fatal(err)
	}
	shimnode.WaitLog(t, slow.LogPath, "ready")
	shimnode.WaitLog(t, killed.LogPath, "ready")
	pid := n.Shim.PID()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	slowPID, killedPID := shimnode.ReadRecord(t, slow.Dir).PID, shimnode.ReadRecord(t, killed.Dir).PID
	if err := errors.Join(unix.Kill(slowPID, unix.SIGTERM), unix.Kill(killedPID, unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	for _, p := range []int{slowPID, killedPID} {
		shimnode.Eventually(t, "a zombie", func() bool {
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
			return bytes.Contains(stat, []byte(") Z "))
		})
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.TakeReplacement(n.Shim.ID(), pid)
	if rec := n.Exit(slow); rec.ExitCode != 33 || rec.Signal != 0 {
		t.Errorf("record %+v", rec)
	}
	if out := n.Output(slow); !strings.Contains(out, "bye\n") {
		t.Errorf("output %q", out)
	}
	if rec := n.Exit(killed); rec.ExitCode != 137 || rec.Signal != 9 || rec.OOMKilled {
		t.Errorf("record %+v", rec)
	}
	if err := n.Shim.Start(n.Ctx, created.ID); err != nil {
		t.Fatal(err)
	}
	if rec := n.Exit(created); rec.ExitCode != 3 || !strings.Contains(n.Output(created), "started\n") {
		t.Errorf("record %+v", rec)
	}
}

// TestStdinEndsDespiteHandoverFiles: the client keeps the write end of stdin for a handover,
// and closes it when the input has ended.
func TestStdinEndsDespiteHandoverFiles(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	once := n.Run(pod, "cat; exit 5", shimnode.WithStdin(true))
	c := n.Attach(once)
	if _, err := c.In.WriteString("all\n"); err != nil {
		t.Fatal(err)
	}
	_ = c.In.Close()
	if rec := n.Exit(once); rec.ExitCode != 5 || n.Output(once) != "all\n" {
		t.Errorf("record %+v", rec)
	}
	adopted := n.Run(pod, "cat; exit 6", shimnode.WithStdin(false))
	n.KillShim()
	if err := n.Shim.CloseStdin(n.Ctx, adopted.ID); err != nil {
		t.Fatal(err)
	}
	if rec := n.Exit(adopted); rec.ExitCode != 6 {
		t.Errorf("record %+v", rec)
	}
}

// TestExecDiesWithItsShim: the replacement kills the execs of a dead shim, because their
// clients have lost the connection that would have reported the exit.
func TestExecDiesWithItsShim(t *testing.T) {
	n := shimnode.New(t)
	r := n.Run(n.Pod(), "sleep 1000")
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	x, err := n.Shim.Exec(n.Ctx, &shimapi.ExecRequest{
		ID: r.ID, ExecID: "lost", Process: &specs.Process{Args: []string{"/bin/sleep", "1000"}},
	}, []*os.File{null, w, w})
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	n.KillShim()
	if _, err := x.Wait(n.Ctx); !errors.Is(err, shims.ErrGone) {
		t.Errorf("wait: %v", err)
	}
	if err := out.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(out); err != nil {
		t.Errorf("the command goes on: %v", err)
	}
	shimnode.Eventually(t, "the orphan is reaped", func() bool { return !shimnode.OnDisk(fmt.Sprintf("/proc/%d", x.Pid)) })
	if rec := shimnode.ReadRecord(t, r.Dir); rec.Status != shimapi.StatusRunning {
		t.Errorf("record %+v", rec)
	}
}

func TestOOMAfterHandover(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	r := n.Run(pod, "read go; exec tail /dev/zero", shimnode.MemoryLimit(16<<20), shimnode.WithStdin(false))
	n.KillShim()
	c := n.Attach(r)
	if _, err := c.In.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	if rec := n.Exit(r); rec.ExitCode != 137 || !rec.OOMKilled || rec.OOMKills == 0 {
		t.Errorf("record %+v", rec)
	}
}

// TestExitedIsDeletedByReplacement: a container that ended before the shim died can be
// deleted by the replacement, with its cgroup and state.
func TestExitedIsDeletedByReplacement(t *testing.T) {
	n := shimnode.New(t)
	r := n.Run(n.Pod(), "exit 2")
	rec := n.Exit(r)
	gone := func() bool {
		return !slices.ContainsFunc(slices.Collect(maps.Values(rec.CgroupPaths)), shimnode.OnDisk)
	}
	shimnode.Eventually(t, "the cgroups go with the end", gone)
	for _, dir := range rec.CgroupPaths { // as if the shim had died earlier
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n.KillShim()
	shimnode.Eventually(t, "the cgroups go with the adoption", gone)
	if err := n.Shim.Delete(n.Ctx, r.ID); err != nil {
		t.Error(err)
	}
	for _, dir := range rec.CgroupPaths {
		if shimnode.OnDisk(dir) {
			t.Errorf("cgroup %s is left", dir)
		}
	}
	if shimnode.OnDisk(filepath.Join(n.Config.StateDir, "shims", n.Shim.ID(), "state", r.ID)) {
		t.Error("libcontainer's state is left")
	}
}
