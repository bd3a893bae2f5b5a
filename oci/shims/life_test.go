package shims

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// pss is the proportional set size of a process in KiB, 0 when it is gone.
func pss(pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		var n int
		if _, err := fmt.Sscanf(line, "Pss: %d kB", &n); err == nil {
			return n
		}
	}
	return 0
}

func memoryLimit(limit int64) func(*shimapi.CreateRequest, *specs.Spec) {
	return func(_ *shimapi.CreateRequest, s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	}
}

func TestOOM(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	t.Run("first process", func(t *testing.T) {
		r := n.run(pod, "exec tail /dev/zero", memoryLimit(16<<20))
		if rec := n.exit(r); rec.ExitCode != 137 || !rec.OOMKilled || rec.OOMKills == 0 {
			t.Errorf("record %+v", rec)
		}
	})
	t.Run("child", func(t *testing.T) {
		r := n.run(pod, "tail /dev/zero; echo child $?; sleep 1000", memoryLimit(16<<20))
		if e := n.seen.await(t, shimapi.EventOOM, r.ID); e.Record.OOMKills == 0 || e.Record.Status != shimapi.StatusRunning {
			t.Errorf("event %+v", e)
		}
		waitLog(t, r.LogPath, "child 137")
		// Killed for another reason later: not by the OOM killer.
		if err := n.shim.Kill(n.ctx, &shimapi.KillRequest{ID: r.ID, Signal: 9}); err != nil {
			t.Fatal(err)
		}
		if rec := n.exit(r); rec.ExitCode != 137 || rec.OOMKilled || rec.OOMKills != 1 {
			t.Errorf("record %+v", rec)
		}
	})
	t.Run("raised limit", func(t *testing.T) {
		r := n.run(pod, "read go; head -c 20m /dev/zero | tail -c 20m >/dev/null; echo survived", memoryLimit(4<<20), withStdin(false))
		limit := int64(128 << 20)
		if err := n.shim.Update(n.ctx, &shimapi.UpdateRequest{ID: r.ID, Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}}); err != nil {
			t.Fatal(err)
		}
		c := n.attachTo(r)
		if _, err := c.in.WriteString("go\n"); err != nil {
			t.Fatal(err)
		}
		if rec := n.exit(r); rec.OOMKills != 0 || !strings.Contains(n.output(r), "survived") {
			t.Errorf("record %+v", rec)
		}
	})
}

func TestUpdate(t *testing.T) {
	n := newShimNode(t)
	r := n.run(n.pod(), "sleep 1000", memoryLimit(64<<20))
	quota, period, shares, pids := int64(20000), uint64(100000), uint64(512), int64(33)
	err := n.shim.Update(n.ctx, &shimapi.UpdateRequest{ID: r.ID, Resources: &specs.LinuxResources{
		CPU: &specs.LinuxCPU{Quota: &quota, Period: &period, Shares: &shares}, Pids: &specs.LinuxPids{Limit: &pids},
	}})
	if err != nil {
		t.Fatal(err)
	}
	groups := readRecord(t, r.Dir).CgroupPaths
	for file, want := range map[string]string{
		"cpu/cpu.cfs_quota_us": "20000", "cpu/cpu.shares": "512", "pids/pids.max": "33", "memory/memory.limit_in_bytes": "67108864",
	} {
		controller, name, _ := strings.Cut(file, "/")
		if groups[controller] == "" {
			t.Skip("not cgroup v1")
		}
		if got, err := os.ReadFile(filepath.Join(groups[controller], name)); err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s is %q, %v, want %s", file, got, err, want)
		}
	}
	tiny := int64(4096)
	err = n.shim.Update(n.ctx, &shimapi.UpdateRequest{ID: r.ID, Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &tiny}}})
	if err == nil {
		t.Error("a limit below what is in use was taken")
	}
	if _, status, err := n.exec(r, 0, "true"); err != nil || status.Code != 0 {
		t.Errorf("exec after update: %+v, %v", status, err)
	}
}

// TestClientRestart lets the client go and come back: everything runs on, and
// what happened meanwhile is told.
func TestClientRestart(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	stays := n.run(pod, "i=0; while :; do echo $i; i=$((i+1)); usleep 20000; done")
	ends := n.run(pod, "trap 'exit 6' TERM; echo ready; while :; do sleep 1 & wait; done")
	waitLog(t, ends.LogPath, "ready")
	id, pid := n.shim.ID(), n.shim.PID()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	started := readRecord(t, ends.Dir)
	if err := unix.Kill(started.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the exit is on disk", func() bool { return readRecord(t, ends.Dir).Status == shimapi.StatusStopped })
	before := len(n.output(stays))
	eventually(t, "the log grows without a client", func() bool { return len(n.output(stays)) > before })
	n.open()
	sh, err := n.Get(id)
	if err != nil || sh.PID() != pid {
		t.Fatalf("%+v, %v", sh, err)
	}
	n.shim = sh
	if rec := n.exit(ends); rec.ExitCode != 6 {
		t.Errorf("code %d, signal %d", rec.ExitCode, rec.Signal)
	}
	if e := n.seen.await(t, shimapi.EventStarted, stays.ID); !e.Replay || e.Record.Pod != pod {
		t.Errorf("event %+v", e)
	}
	n.seen.await(t, shimapi.EventStarted, pod)
	if again, err := n.ForNewPod(n.ctx); err != nil || again.ID() != id {
		t.Errorf("%+v, %v", again, err)
	} else {
		again.Release()
	}
	if _, status, err := n.exec(stays, 0, "true"); err != nil || status.Code != 0 {
		t.Errorf("%+v, %v", status, err)
	}
}

// TestShimDiesForGood lets nothing be adopted: no replacement can be started.
func TestShimDiesForGood(t *testing.T) {
	n := newShimNode(t)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	binary, link := n.config.Binary, filepath.Join(n.dir, "berth-shim")
	if err := os.Symlink(binary, link); err != nil {
		t.Fatal(err)
	}
	n.config.Binary = link
	n.open()
	pod := n.pod()
	pause := n.podRecord(pod)
	id := n.shim.ID()
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(n.shim.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.seen.await(t, EventGone, id)
	if _, err := n.Get(id); !errors.Is(err, ErrGone) {
		t.Errorf("get: %v", err)
	}
	if err := n.shim.StopPod(n.ctx, pod); !errors.Is(err, ErrGone) {
		t.Errorf("call: %v", err)
	}
	if _, err := n.shim.List(n.ctx); !errors.Is(err, ErrGone) {
		t.Errorf("list: %v", err)
	}
	if onDisk(filepath.Join(n.config.StateDir, "shims", id)) {
		t.Error("its directory is left")
	}
	// What it was the parent of is the daemon's to clear away.
	if err := unix.Kill(pause.PID, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	netns := filepath.Join(n.dir, "state", "pods", pod, "net")
	if err := unix.Unmount(netns, unix.MNT_DETACH); err != nil {
		t.Error(err)
	}
	eventually(t, "pause has ended", func() bool { return !onDisk(fmt.Sprintf("/proc/%d/root", pause.PID)) })
	if err := os.Symlink(binary, link); err != nil {
		t.Fatal(err)
	}
	n.pod() // by another shim
	if n.shim.ID() == id {
		t.Error("the dead shim was chosen")
	}
}

// TestShimDiesUnseen has the shim die while there is no client.
func TestShimDiesUnseen(t *testing.T) {
	n := newShimNode(t)
	sh, err := n.ForNewPod(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(sh.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the lock is free", func() bool {
		f, err := lockDir(sh.dir)
		if err == nil {
			_ = f.Close()
		}
		return err == nil
	})
	n.open()
	n.seen.await(t, EventGone, sh.ID())
	if onDisk(sh.dir) {
		t.Error("its directory is left")
	}
}

func TestPodsPerShim(t *testing.T) {
	n := newShimNode(t)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.config.PodsPerShim = 2
	n.open()
	shims := map[string]int{}
	var last string
	for range 3 {
		last = n.pod()
		shims[n.shim.ID()]++
	}
	if len(shims) != 2 {
		t.Fatalf("pods per shim %v", shims)
	}
	alone := n.shim
	if shims[alone.ID()] != 1 {
		t.Fatalf("pods per shim %v", shims)
	}
	if err := alone.RemovePod(n.ctx, last); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Get(alone.ID()); !errors.Is(err, ErrGone) {
		t.Errorf("the empty shim stays: %v", err)
	}
	for id := range shims {
		if sh, err := n.Get(id); err == nil {
			n.shim = sh
		}
	}
}

func TestOtherVersionDrains(t *testing.T) {
	n := newShimNode(t)
	old := n.pod()
	oldShim := n.shim.ID()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.config.Version = "newer"
	n.open()
	n.pod()
	if n.shim.ID() == oldShim {
		t.Error("a new pod went to an old shim")
	}
	sh, err := n.Get(oldShim)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Shutdown(n.ctx); err != nil { // both hold pods
		t.Error(err)
	}
	if err := sh.RemovePod(n.ctx, old); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Get(oldShim); !errors.Is(err, ErrGone) {
		t.Errorf("the old shim stays: %v", err)
	}
}

func TestShimBinaryMissing(t *testing.T) {
	n := newShimNode(t)
	n.Set.config.Binary = "/no/such/berth-shim"
	if _, err := n.ForNewPod(n.ctx); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "/no/such/berth-shim") {
		t.Errorf("%v", err)
	}
	n.Set.config.Binary = "/bin/busybox"
	if _, err := n.ForNewPod(n.ctx); err == nil {
		t.Error("busybox was taken for a shim")
	}
	if left, _ := os.ReadDir(filepath.Join(n.config.StateDir, "shims")); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// TestEventOfADeletedContainerIsWhole: an event is written while the container is
// destroyed, by which libcontainer empties its own map of cgroups.
func TestEventOfADeletedContainerIsWhole(t *testing.T) {
	n := newShimNode(t)
	pod := n.pod()
	for range 20 {
		r := n.request(pod, "sleep 100")
		created, err := n.shim.Create(n.ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.shim.Delete(n.ctx, r.ID); err != nil {
			t.Fatal(err)
		}
		told := n.seen.await(t, shimapi.EventExited, r.ID).Record.CgroupPaths
		if len(created.CgroupPaths) == 0 || !maps.Equal(told, created.CgroupPaths) {
			t.Errorf("told %v of %v", told, created.CgroupPaths)
		}
	}
}
