package shims_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/test/shimnode"
)

func TestShimHandover(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	pause := n.PodRecord(pod)
	r := n.Run(pod, shimnode.Counting)
	shimnode.WaitLog(t, r.LogPath, "n100\n")
	for round := range 3 {
		size := shimnode.LogSize(r)
		n.KillShim()
		shimnode.Eventually(t, "the log grows again", func() bool { return shimnode.LogSize(r) > size+1000 })
		if now := n.PodRecord(pod); now.PID != pause.PID || now.Status != shimapi.StatusRunning {
			t.Fatalf("round %d: pause %+v", round, now)
		}
		if out, status, err := n.Exec(r, 0, "echo", "hello"); err != nil || status.Code != 0 || out != "hello\n" {
			t.Fatalf("exec: %q, %+v, %v", out, status, err)
		}
	}
	if err := n.Shim.Reopen(n.Ctx, r.ID); err != nil {
		t.Error(err)
	}
	if err := n.Shim.Kill(n.Ctx, &shimapi.KillRequest{ID: r.ID, Signal: int(unix.SIGTERM)}); err != nil {
		t.Fatal(err)
	}
	rec := n.Exit(r)
	if rec.ExitCode != 9 || rec.Signal != 0 || rec.Reason != "" {
		t.Errorf("record %+v", rec)
	}
	log := n.Output(r)
	last := shimnode.Numbers(t, log)
	if !strings.HasSuffix(log, fmt.Sprintf("last %d\n", last)) && !strings.HasSuffix(log, fmt.Sprintf("last %d\n", last+1)) {
		t.Errorf("the end is %q", log[max(0, len(log)-40):])
	}
	n.Run(pod, "true") // goes on working
	n.Pod()
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
	if err := n.Shim.StopPod(n.Ctx, pod); err != nil {
		t.Error(err)
	}
	n.Seen.Await(t, shimapi.EventPodExited, pod)
	if shimnode.OnDisk(filepath.Join(n.Dir, "state", "pods", pod, "net")) {
		t.Error("network namespace is still pinned")
	}
}

// TestHandoverAfterClientRestart: a new client requests the files that the old one had. It is
// not the parent of the containers of a dead shim.
func TestHandoverAfterClientRestart(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	r := n.Run(pod, shimnode.Counting)
	shimnode.WaitLog(t, r.LogPath, "n100\n")
	tty := n.Run(pod, "echo ready; read x; echo got $x; exit 4", shimnode.WithStdin(false), func(_ *shimapi.CreateRequest, s *specs.Spec) {
		s.Process.Terminal = true
	})
	shimnode.WaitLog(t, tty.LogPath, "ready")
	id := n.Shim.ID()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.Open()
	n.Seen.Await(t, shimapi.EventStarted, tty.ID)
	sh, err := n.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	n.Shim = sh
	shimnode.Eventually(t, "all files are there", func() bool { return sh.Handovers() == 3 })
	n.KillShim()
	c := n.Attach(tty)
	if _, err := c.In.WriteString("it\n"); err != nil {
		t.Fatal(err)
	}
	if rec := n.Exit(tty); rec.ExitCode != 4 || !strings.Contains(n.Output(tty), "got it") {
		t.Errorf("record %+v, %q", rec, n.Output(tty))
	}
	if err := n.Shim.Kill(n.Ctx, &shimapi.KillRequest{ID: r.ID, Signal: int(unix.SIGTERM)}); err != nil {
		t.Fatal(err)
	}
	if rec := n.Exit(r); rec.ExitCode != 9 {
		t.Errorf("record %+v", rec)
	}
}

// TestVerbsDuringTheGap: calls of a dying shim are carried out by its replacement.
func TestVerbsDuringTheGap(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	r := n.Run(pod, shimnode.Counting)
	shimnode.WaitLog(t, r.LogPath, "ready")
	dying, gone := n.Shim, n.Shim.Ended()
	if err := unix.Kill(dying.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if held, err := dying.List(n.Ctx); err != nil || len(held.Containers) != 1 {
		t.Errorf("list: %+v, %v", held, err)
	}
	<-gone
	out, status, err := n.Exec(r, 0, "echo", "hello")
	if err != nil || status.Code != 0 || out != "hello\n" {
		t.Errorf("exec: %q, %+v, %v", out, status, err)
	}
	again := n.Run(pod, "exit 8")
	if rec := n.Exit(again); rec.ExitCode != 8 {
		t.Errorf("record %+v", rec)
	}
	if err := dying.Kill(n.Ctx, &shimapi.KillRequest{ID: r.ID, Signal: int(unix.SIGKILL), All: true}); err != nil {
		t.Error(err)
	}
	if rec := n.Exit(r); rec.ExitCode != 137 || rec.Signal != 9 {
		t.Errorf("record %+v", rec)
	}
	if err := dying.Delete(n.Ctx, r.ID); err != nil {
		t.Error(err)
	}
	n.Shim, _ = n.Get(dying.ID())
}

// TestLostContainer: a container that can't be adopted is reported as lost. The others go on.
func TestLostContainer(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	lost, kept := n.Run(pod, "sleep 1000"), n.Run(pod, "sleep 1000")
	pid := shimnode.ReadRecord(t, lost.Dir).PID
	if err := os.Remove(filepath.Join(lost.Dir, "status.json")); err != nil {
		t.Fatal(err)
	}
	n.KillShim()
	n.Seen.Await(t, shims.EventLost, lost.ID)
	if _, status, err := n.Exec(kept, 0, "true"); err != nil || status.Code != 0 {
		t.Errorf("exec: %+v, %v", status, err)
	}
	if err := n.Shim.Delete(n.Ctx, lost.ID); err != nil { // kills it
		t.Error(err)
	}
	shimnode.Eventually(t, "it is gone", func() bool { return !shimnode.OnDisk(fmt.Sprintf("/proc/%d", pid)) })
}

// TestFullLogDiskAtTheHandover: a container whose log can't be made, since its disk is full, runs
// on after its shim was replaced, as does its neighbour, and logs again when there is room.
func TestFullLogDiskAtTheHandover(t *testing.T) {
	n := shimnode.New(t)
	small := n.Mkdir("small")
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "nr_inodes=2"); err != nil { // the directory, and one file
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	pod := n.Pod()
	r := n.Run(pod, "while :; do echo line; sleep 0.1; done", func(r *shimapi.CreateRequest, _ *specs.Spec) { r.LogPath = filepath.Join(small, "0.log") })
	other := n.Run(pod, "sleep 1000")
	rotated := filepath.Join(small, "0.log.1")
	if err := os.Rename(r.LogPath, rotated); err != nil {
		t.Fatal(err)
	}
	n.KillShim()
	for _, c := range []*shimapi.CreateRequest{r, other} {
		if _, status, err := n.Exec(c, 0, "true"); err != nil || status.Code != 0 {
			t.Errorf("an exec after the hand-over: %+v, %v", status, err)
		}
	}
	if shimnode.OnDisk(r.LogPath) {
		t.Error("the disk has room: this tests nothing")
	}
	if err := os.Remove(rotated); err != nil {
		t.Fatal(err)
	}
	shimnode.Eventually(t, "it logs again", func() bool {
		st, err := os.Stat(r.LogPath)
		return err == nil && st.Size() > 0
	})
}

// TestHandoverFilesAreFew: the client keeps at most four descriptors of a container, and none
// after its end.
func TestHandoverFilesAreFew(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	before := count()
	r := n.Run(pod, "read x", shimnode.WithStdin(false))
	if held := count() - before; held > 4 {
		t.Errorf("%d descriptors for a container", held)
	}
	n.KillShim()
	shimnode.Eventually(t, "no more after the hand-over", func() bool { return count()-before <= 4 })
	if err := n.Shim.Kill(n.Ctx, &shimapi.KillRequest{ID: r.ID, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	n.Exit(r)
	shimnode.Eventually(t, "none after the end", func() bool { return count() <= before })
}

// TestLateHandoverKeepsTheExitCode: a container whose creation the dead shim had reported
// just before its end is ours to wait for like the others.
func TestLateHandoverKeepsTheExitCode(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	r := n.Request(pod, "exit 6")
	if _, err := n.Shim.Create(n.Ctx, r); err != nil {
		t.Fatal(err)
	}
	if err := n.Shim.HandOverLate(n.Ctx, r.ID, n.KillShim); err != nil {
		t.Fatal(err)
	}
	if err := n.Shim.Start(n.Ctx, r.ID); err != nil {
		t.Fatal(err)
	}
	if rec := n.Exit(r); rec.ExitCode != 6 || rec.Reason != "" {
		t.Errorf("record %+v", rec)
	}
}

// TestTheNextDaemonIsReadyForTheShimsDeath: once the set is open it has what a replacement
// needs of every pod and container, however many events wait for their reader.
func TestTheNextDaemonIsReadyForTheShimsDeath(t *testing.T) {
	const ended = 5
	n := shimnode.New(t)
	pod := n.Pod()
	runs := n.Run(pod, "while [ ! -e /go ]; do usleep 1000; done; exit 4")
	for range ended {
		n.Exit(n.Run(pod, "exit 3"))
	}
	id := n.Shim.ID()
	n.Reopen()
	sh, err := n.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	n.Shim = sh
	if got, want := n.Shim.Handovers(), 2+ended; got != want {
		t.Errorf("what a replacement needs is there of %d pods and containers, there are %d", got, want)
	}
	n.KillShim()
	if _, _, err := n.Exec(runs, 0, "sh", "-c", ": >/go"); err != nil {
		t.Fatal(err)
	}
	if rec := n.Exit(runs); rec.ExitCode != 4 || rec.Reason != "" {
		t.Errorf("record %+v", rec)
	}
}
