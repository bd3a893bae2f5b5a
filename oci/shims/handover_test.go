package shims

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// counting prints numbered lines as fast as the log takes them, which stop after
// TERM with a last word: a pipe that broke would end it by SIGPIPE, with 141.
const counting = `trap 'echo last $i; exit 9' TERM; echo ready; i=0; while :; do echo n$i; i=$((i+1)); done`

// killShim kills the shim and waits for its replacement.
func (n *shimNode) killShim() {
	n.t.Helper()
	id, pid := n.shim.ID(), n.shim.PID()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
	n.takeReplacement(id, pid)
}

func (n *shimNode) takeReplacement(id string, pid int) {
	n.t.Helper()
	eventually(n.t, "the shim is dead", func() bool {
		sh, err := n.Get(id)
		return err == nil && sh.PID() != pid
	})
	sh, err := n.Get(id)
	if err != nil {
		n.t.Fatal(err)
	}
	n.shim = sh
}

// numbers checks that the lines n0, n1, … of a log rise, and tells how many are
// missing and where the first gap is.
func numbers(t *testing.T, log string) (last, missing, gaps int) {
	t.Helper()
	next := 0
	for line := range strings.Lines(log) {
		var at int
		if _, err := fmt.Sscanf(line, "n%d\n", &at); err != nil {
			continue
		}
		if at < next {
			t.Errorf("line %d after %d", at, next-1)
		}
		if at > next {
			missing += at - next
			gaps++
		}
		next = at + 1
	}
	return next - 1, missing, gaps
}

func TestShimHandover(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	pause := n.podRecord(pod)
	r := n.run(pod, counting)
	waitLog(t, r.LogPath, "n100\n")
	for round := range 3 {
		size := logSize(r)
		n.killShim()
		eventually(t, "the log grows again", func() bool { return logSize(r) > size+1000 })
		if now := n.podRecord(pod); now.PID != pause.PID || now.Status != shimapi.StatusRunning {
			t.Fatalf("round %d: pause %+v", round, now)
		}
		if out, status, err := n.exec(r, 0, "echo", "hello"); err != nil || status.Code != 0 || out != "hello\n" {
			t.Fatalf("exec: %q, %+v, %v", out, status, err)
		}
	}
	if err := n.shim.Reopen(n.ctx, r.ID); err != nil {
		t.Error(err)
	}
	if err := n.shim.Kill(n.ctx, &shimapi.KillRequest{ID: r.ID, Signal: int(unix.SIGTERM)}); err != nil {
		t.Fatal(err)
	}
	rec := n.exit(r)
	if rec.ExitCode != 9 || rec.Signal != 0 || rec.Reason != "" {
		t.Errorf("record %+v", rec)
	}
	log := n.output(r)
	last, missing, gaps := numbers(t, log)
	t.Logf("%d lines, %d missing in %d gaps", last, missing, gaps)
	if gaps > 3 || !strings.HasSuffix(log, fmt.Sprintf("last %d\n", last)) && !strings.HasSuffix(log, fmt.Sprintf("last %d\n", last+1)) {
		t.Errorf("%d gaps, the end is %q", gaps, log[max(0, len(log)-40):])
	}
	n.run(pod, "true") // goes on working
	n.pod()
	if err := n.shim.Delete(n.ctx, r.ID); err != nil {
		t.Error(err)
	}
	for _, dir := range rec.CgroupPaths {
		if onDisk(dir) {
			t.Errorf("cgroup %s is left", dir)
		}
	}
	if onDisk(filepath.Join(n.config.StateDir, "shims", n.shim.ID(), "state", r.ID)) {
		t.Error("libcontainer's state is left")
	}
	if err := n.shim.StopPod(n.ctx, pod); err != nil {
		t.Error(err)
	}
	n.seen.await(t, shimapi.EventPodExited, pod)
	if onDisk(filepath.Join(n.dir, "state", "pods", pod, "net")) {
		t.Error("network namespace is still pinned")
	}
}

func logSize(r *shimapi.CreateRequest) int64 {
	info, err := os.Stat(r.LogPath)
	if err != nil {
		return 0
	}
	return info.Size()
}

// TestHandoverKeepsUnreadLines stops the shim before it dies, so that nothing is
// in its buffers: not one line may be missing then.
func TestHandoverKeepsUnreadLines(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	r := n.run(pod, "read go; i=0; while [ $i -lt 5000 ]; do echo n$i; i=$((i+1)); done; exit 21", withStdin(false))
	c := n.attachTo(r)
	if _, err := c.in.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	waitLog(t, r.LogPath, "n50\n")
	pid := n.shim.PID()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	_ = c
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.takeReplacement(n.shim.ID(), pid)
	if rec := n.exit(r); rec.ExitCode != 21 || rec.Reason != "" {
		t.Errorf("record %+v", rec)
	}
	last, missing, gaps := numbers(t, n.output(r))
	t.Logf("%d lines, %d missing in %d gaps", last, missing, gaps)
	if last != 4999 || gaps > 1 {
		t.Errorf("%d lines, %d missing in %d gaps", last, missing, gaps)
	}
}

// TestEndsInTheGap has containers end while no shim is there to see it.
func TestEndsInTheGap(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	slow := n.run(pod, "trap 'echo bye; exit 33' TERM; echo ready; while :; do usleep 5000; done")
	killed := n.run(pod, "echo ready; sleep 1000")
	created := n.request(pod, "echo started; exit 3")
	if _, err := n.shim.Create(n.ctx, created); err != nil {
		t.Fatal(err)
	}
	waitLog(t, slow.LogPath, "ready")
	waitLog(t, killed.LogPath, "ready")
	pid := n.shim.PID()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	slowPID, killedPID := readRecord(t, slow.Dir).PID, readRecord(t, killed.Dir).PID
	if err := errors.Join(unix.Kill(slowPID, unix.SIGTERM), unix.Kill(killedPID, unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	for _, p := range []int{slowPID, killedPID} {
		eventually(t, "a zombie", func() bool {
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
			return bytes.Contains(stat, []byte(") Z "))
		})
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.takeReplacement(n.shim.ID(), pid)
	if rec := n.exit(slow); rec.ExitCode != 33 || rec.Signal != 0 {
		t.Errorf("record %+v", rec)
	}
	if out := n.output(slow); !strings.Contains(out, "bye\n") {
		t.Errorf("output %q", out)
	}
	if rec := n.exit(killed); rec.ExitCode != 137 || rec.Signal != 9 || rec.OOMKilled {
		t.Errorf("record %+v", rec)
	}
	if err := n.shim.Start(n.ctx, created.ID); err != nil {
		t.Fatal(err)
	}
	if rec := n.exit(created); rec.ExitCode != 3 || !strings.Contains(n.output(created), "started\n") {
		t.Errorf("record %+v", rec)
	}
}

// TestHandoverAfterClientRestart: the new client requests the files that the old one had,
// and is not the parent of what a dead shim leaves.
func TestHandoverAfterClientRestart(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	r := n.run(pod, counting)
	waitLog(t, r.LogPath, "n100\n")
	tty := n.run(pod, "echo ready; read x; echo got $x; exit 4", withStdin(false), func(_ *shimapi.CreateRequest, s *specs.Spec) {
		s.Process.Terminal = true
	})
	waitLog(t, tty.LogPath, "ready")
	id := n.shim.ID()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.open()
	n.seen.await(t, shimapi.EventStarted, tty.ID)
	sh, err := n.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	n.shim = sh
	eventually(t, "all files are there", func() bool {
		n.Set.mu.Lock()
		defer n.Set.mu.Unlock()
		return len(sh.handover) == 3
	})
	n.killShim()
	c := n.attachTo(tty)
	if _, err := c.in.WriteString("it\n"); err != nil {
		t.Fatal(err)
	}
	if rec := n.exit(tty); rec.ExitCode != 4 || !strings.Contains(n.output(tty), "got it") {
		t.Errorf("record %+v, %q", rec, n.output(tty))
	}
	if err := n.shim.Kill(n.ctx, &shimapi.KillRequest{ID: r.ID, Signal: int(unix.SIGTERM)}); err != nil {
		t.Fatal(err)
	}
	if rec := n.exit(r); rec.ExitCode != 9 {
		t.Errorf("record %+v", rec)
	}
}

// TestStdinEndsDespiteHandoverFiles: we hold the write end as well.
func TestStdinEndsDespiteHandoverFiles(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	once := n.run(pod, "cat; exit 5", withStdin(true))
	c := n.attachTo(once)
	if _, err := c.in.WriteString("all\n"); err != nil {
		t.Fatal(err)
	}
	_ = c.in.Close()
	if rec := n.exit(once); rec.ExitCode != 5 || n.output(once) != "all\n" {
		t.Errorf("record %+v", rec)
	}
	adopted := n.run(pod, "cat; exit 6", withStdin(false))
	n.killShim()
	if err := n.shim.CloseStdin(n.ctx, adopted.ID); err != nil {
		t.Fatal(err)
	}
	if rec := n.exit(adopted); rec.ExitCode != 6 {
		t.Errorf("record %+v", rec)
	}
}

// TestVerbsDuringTheGap: what was asked of the dying shim its replacement does.
func TestVerbsDuringTheGap(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	r := n.run(pod, counting)
	waitLog(t, r.LogPath, "ready")
	dying, gone := n.shim, ended(n.shim)
	if err := unix.Kill(dying.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if held, err := dying.List(n.ctx); err != nil || len(held.Containers) != 1 {
		t.Errorf("list: %+v, %v", held, err)
	}
	<-gone
	out, status, err := n.exec(r, 0, "echo", "hello")
	if err != nil || status.Code != 0 || out != "hello\n" {
		t.Errorf("exec: %q, %+v, %v", out, status, err)
	}
	again := n.run(pod, "exit 8")
	if rec := n.exit(again); rec.ExitCode != 8 {
		t.Errorf("record %+v", rec)
	}
	if err := dying.Kill(n.ctx, &shimapi.KillRequest{ID: r.ID, Signal: int(unix.SIGKILL), All: true}); err != nil {
		t.Error(err)
	}
	if rec := n.exit(r); rec.ExitCode != 137 || rec.Signal != 9 {
		t.Errorf("record %+v", rec)
	}
	if err := dying.Delete(n.ctx, r.ID); err != nil {
		t.Error(err)
	}
	n.shim, _ = n.Get(dying.ID())
}

// TestExecDiesWithItsShim: nobody could tell of its end, so it ends.
func TestExecDiesWithItsShim(t *testing.T) {
	n := newShimNode(t)
	r := n.run(n.pod(), "sleep 1000")
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
	x, err := n.shim.Exec(n.ctx, &shimapi.ExecRequest{
		ID: r.ID, ExecID: "lost", Process: &specs.Process{Args: []string{"/bin/sleep", "1000"}},
	}, []*os.File{null, w, w})
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	n.killShim()
	if _, err := x.Wait(n.ctx); !errors.Is(err, ErrGone) {
		t.Errorf("wait: %v", err)
	}
	if err := out.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(out); err != nil {
		t.Errorf("the command goes on: %v", err)
	}
	eventually(t, "the orphan is reaped", func() bool { return !onDisk(fmt.Sprintf("/proc/%d", x.Pid)) })
	if rec := readRecord(t, r.Dir); rec.Status != shimapi.StatusRunning {
		t.Errorf("record %+v", rec)
	}
}

func TestOOMAfterHandover(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	r := n.run(pod, "read go; exec tail /dev/zero", memoryLimit(16<<20), withStdin(false))
	n.killShim()
	c := n.attachTo(r)
	if _, err := c.in.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	if rec := n.exit(r); rec.ExitCode != 137 || !rec.OOMKilled || rec.OOMKills == 0 {
		t.Errorf("record %+v", rec)
	}
}

// TestExitedIsDeletedByReplacement: cgroup and state of what ended before go as well.
func TestExitedIsDeletedByReplacement(t *testing.T) {
	n := newShimNode(t)
	r := n.run(n.pod(), "exit 2")
	rec := n.exit(r)
	n.killShim()
	if err := n.shim.Delete(n.ctx, r.ID); err != nil {
		t.Error(err)
	}
	for _, dir := range rec.CgroupPaths {
		if onDisk(dir) {
			t.Errorf("cgroup %s is left", dir)
		}
	}
	if onDisk(filepath.Join(n.shim.dir, "state", r.ID)) {
		t.Error("libcontainer's state is left")
	}
}

// TestLostContainer: what can't be adopted is told of, the rest goes on.
func TestLostContainer(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	lost, kept := n.run(pod, "sleep 1000"), n.run(pod, "sleep 1000")
	pid := readRecord(t, lost.Dir).PID
	if err := os.Remove(filepath.Join(lost.Dir, "status.json")); err != nil {
		t.Fatal(err)
	}
	n.killShim()
	n.seen.await(t, EventLost, lost.ID)
	if _, status, err := n.exec(kept, 0, "true"); err != nil || status.Code != 0 {
		t.Errorf("exec: %+v, %v", status, err)
	}
	if err := n.shim.Delete(n.ctx, lost.ID); err != nil { // kills it
		t.Error(err)
	}
	eventually(t, "it is gone", func() bool { return !onDisk(fmt.Sprintf("/proc/%d", pid)) })
}

// TestHandoverFilesAreFew: four descriptors a container at most, none after its end.
func TestHandoverFilesAreFew(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	before := count()
	r := n.run(pod, "read x", withStdin(false))
	if held := count() - before; held > 4 {
		t.Errorf("%d descriptors for a container", held)
	}
	n.killShim()
	eventually(t, "no more after the hand-over", func() bool { return count()-before <= 4 })
	if err := n.shim.Kill(n.ctx, &shimapi.KillRequest{ID: r.ID, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	n.exit(r)
	eventually(t, "none after the end", func() bool { return count() <= before })
}
