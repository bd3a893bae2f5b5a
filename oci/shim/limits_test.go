package shim_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/test/shimnode"
)

func TestOOM(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	t.Run("first process", func(t *testing.T) {
		r := n.Run(pod, "exec tail /dev/zero", shimnode.MemoryLimit(16<<20))
		if rec := n.Exit(r); rec.ExitCode != 137 || !rec.OOMKilled || rec.OOMKills == 0 {
			t.Errorf("record %+v", rec)
		}
	})
	t.Run("child", func(t *testing.T) {
		r := n.Run(pod, "tail /dev/zero; echo child $?; sleep 1000", shimnode.MemoryLimit(16<<20))
		if e := n.Seen.Await(t, shimapi.EventOOM, r.ID); e.Record.OOMKills == 0 || e.Record.Status != shimapi.StatusRunning {
			t.Errorf("event %+v", e)
		}
		shimnode.WaitLog(t, r.LogPath, "child 137")
		// Killed for another reason later: not by the OOM killer.
		if err := n.Shim.Kill(n.Ctx, &shimapi.KillRequest{ID: r.ID, Signal: 9}); err != nil {
			t.Fatal(err)
		}
		if rec := n.Exit(r); rec.ExitCode != 137 || rec.OOMKilled || rec.OOMKills != 1 {
			t.Errorf("record %+v", rec)
		}
	})
	t.Run("raised limit", func(t *testing.T) {
		r := n.Run(pod, "read go; head -c 20m /dev/zero | tail -c 20m >/dev/null; echo survived", shimnode.MemoryLimit(4<<20), shimnode.WithStdin(false))
		limit := int64(128 << 20)
		if err := n.Shim.Update(n.Ctx, &shimapi.UpdateRequest{ID: r.ID, Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}}); err != nil {
			t.Fatal(err)
		}
		c := n.Attach(r)
		if _, err := c.In.WriteString("go\n"); err != nil {
			t.Fatal(err)
		}
		if rec := n.Exit(r); rec.OOMKills != 0 || !strings.Contains(n.Output(r), "survived") {
			t.Errorf("record %+v", rec)
		}
	})
}

func TestUpdate(t *testing.T) {
	n := shimnode.New(t)
	r := n.Run(n.Pod(), "sleep 1000", shimnode.MemoryLimit(64<<20))
	quota, period, shares, pids := int64(20000), uint64(100000), uint64(512), int64(33)
	err := n.Shim.Update(n.Ctx, &shimapi.UpdateRequest{ID: r.ID, Resources: &specs.LinuxResources{
		CPU: &specs.LinuxCPU{Quota: &quota, Period: &period, Shares: &shares}, Pids: &specs.LinuxPids{Limit: &pids},
	}})
	if err != nil {
		t.Fatal(err)
	}
	groups := shimnode.ReadRecord(t, r.Dir).CgroupPaths
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
	err = n.Shim.Update(n.Ctx, &shimapi.UpdateRequest{ID: r.ID, Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &tiny}}})
	if err == nil {
		t.Error("a limit below what is in use was taken")
	}
	if _, status, err := n.Exec(r, 0, "true"); err != nil || status.Code != 0 {
		t.Errorf("exec after update: %+v, %v", status, err)
	}
}

// TestUpdateMeetsTheEnd: an update of a container whose process has ended, and whose end is
// not recorded yet, is refused for that reason, and the record then says so, too. The test
// keeps the container's output open, which delays the record.
func TestUpdateMeetsTheEnd(t *testing.T) {
	n := shimnode.New(t)
	r := n.Run(n.Pod(), "sleep 1000")
	pid := shimnode.ReadRecord(t, r.Dir).PID
	output, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/1", pid), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	shimnode.Eventually(t, "the process has ended", func() bool {
		_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		return err != nil
	})
	shares := uint64(512)
	err = n.Shim.Update(n.Ctx, &shimapi.UpdateRequest{ID: r.ID, Resources: &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}}})
	if shimnode.KindOfError(err) != shimapi.KindNotRunning {
		t.Errorf("update of a container that has ended: %v", err)
	}
	if rec := shimnode.ReadRecord(t, r.Dir); rec.Status != shimapi.StatusStopped {
		t.Errorf("after the refusal the record says %s", rec.Status)
	}
}

// TestEventOfADeletedContainerIsWhole: the event of the exit names the cgroups although the
// container is destroyed at the same time, when libcontainer empties its own map of them.
func TestEventOfADeletedContainerIsWhole(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	for range 20 {
		r := n.Request(pod, "sleep 100")
		created, err := n.Shim.Create(n.Ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Shim.Delete(n.Ctx, r.ID); err != nil {
			t.Fatal(err)
		}
		reported := n.Seen.Await(t, shimapi.EventExited, r.ID).Record.CgroupPaths
		if len(created.CgroupPaths) == 0 || !maps.Equal(reported, created.CgroupPaths) {
			t.Errorf("the event names cgroups %v, want %v", reported, created.CgroupPaths)
		}
	}
}
