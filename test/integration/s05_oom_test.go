package integration

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// allocate128 takes 128 MiB and writes to all of it.
const allocate128 = "dd if=/dev/zero of=/dev/null bs=128M count=1"

func resources(r *runtimeapi.LinuxContainerResources) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) { c.Linux.Resources = r }
}

// S05: 128 MiB under a limit of 64. Whoever is killed by the kernel is told once,
// and only the first process's death is the container's end.
func TestS05OutOfMemory(t *testing.T) {
	p := shared.pod(t)
	limit := resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20})
	sibling := p.idle("sibling", limit)
	first := sibling.hostPID()
	t.Run("first process", func(t *testing.T) { killedFirst(t, p.in(t), limit) })
	t.Run("child", func(t *testing.T) { killedChild(t, p.in(t), limit) })
	t.Run("child and end", func(t *testing.T) {
		st := p.in(t).start("ends", allocate128+"; exit 5", limit).Ended()
		if st.GetExitCode() != 5 || st.GetReason() != "Error" {
			t.Errorf("a killed child counted as the container's end: %d %s", st.GetExitCode(), st.GetReason())
		}
	})
	t.Run("child is the end", func(t *testing.T) { killedBelowShell(t, p.in(t), limit) })
	t.Run("group", func(t *testing.T) {
		onlyV2(t, p.in(t), "memory.oom.group", "1")
		killedGroup(t, p.in(t))
	})
	if err := unix.Kill(first, 0); err != nil || sibling.hostPID() != first {
		t.Errorf("the sibling's first process %d: %v, now %d", first, err, sibling.hostPID())
	}
	if n := oomKills(t, cgroupDir(t, first, "memory")); n != 0 {
		t.Errorf("the kernel killed %d processes of the sibling", n)
	}
}

// killedFirst finds the cgroup while the container is created: its first process
// is there before it runs, and not after.
func killedFirst(t *testing.T, p *pod, limit func(*runtimeapi.ContainerConfig)) {
	t.Helper()
	id, err := p.create(client.Shell("first", "exec "+allocate128, limit))
	if err != nil {
		t.Fatal(err)
	}
	c := p.ctr(id)
	kills := oomKillsFromNow(t, cgroupDir(t, c.hostPID(), "memory"))
	if err := c.TryStart(); err != nil {
		t.Fatal(err)
	}
	if st := c.Ended(); st.GetExitCode() != 137 || st.GetReason() != "OOMKilled" {
		t.Errorf("%d %s %s", st.GetExitCode(), st.GetReason(), st.GetMessage())
	}
	if n := kills(); n != 1 {
		t.Errorf("the kernel killed %d times", n)
	}
	stops := slices.DeleteFunc(shared.events.kinds(id), func(k runtimeapi.ContainerEventType) bool {
		return k != runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT
	})
	if len(stops) != 1 {
		t.Errorf("the end was told %d times", len(stops))
	}
	c.likely("process", "killed it for memory", "the limit is 64 MiB")
}

// killedChild wants the kill counted, and the container running.
func killedChild(t *testing.T, p *pod, limit func(*runtimeapi.ContainerConfig)) {
	t.Helper()
	c := p.start("child", allocate128+"; echo child=$?; exec sleep 1000", limit)
	first := c.hostPID()
	c.says("child=137")
	if st := c.Status(); st.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING || c.hostPID() != first {
		t.Errorf("%v, first process %d is now %d", st.GetState(), first, c.hostPID())
	}
	if n := oomKills(t, cgroupDir(t, first, "memory")); n != 1 {
		t.Errorf("the kernel killed %d times", n)
	}
	if got, n := c.fact("cgroup", "OOM kills"), c.metrics()["container_oom_events_total"]; got != "1" || n != 1 {
		t.Errorf("explain counts %s, metrics %d", got, n)
	}
	c.likely("cgroup", "killed processes of it for memory (1)", "not the first")
}

// killedBelowShell: a shell that ends with its command's code, as entrypoints do,
// died of memory when the command did, and not when a stop killed it after that.
func killedBelowShell(t *testing.T, p *pod, limit func(*runtimeapi.ContainerConfig)) {
	t.Helper()
	st := p.start("shell", allocate128+"; exit $?", limit).Ended()
	if st.GetExitCode() != 137 || st.GetReason() != "OOMKilled" {
		t.Errorf("with its command's code: %d %s", st.GetExitCode(), st.GetReason())
	}
	if st := p.start("code", "exit 137", limit).Ended(); st.GetReason() != "Error" {
		t.Errorf("with a code of its own: %d %s", st.GetExitCode(), st.GetReason())
	}
	c := p.start("stopped", allocate128+"; echo child=$?; exec sleep 1000", limit)
	c.says("child=137")
	c.Stop(0)
	if st := c.Ended(); st.GetExitCode() != 137 || st.GetReason() != "Error" {
		t.Errorf("killed by a stop: %d %s", st.GetExitCode(), st.GetReason())
	}
}

// killedGroup wants the first process and all others to die of one's greed.
func killedGroup(t *testing.T, p *pod) {
	t.Helper()
	c := p.start("group", "sleep 1001 & "+allocate128+"; echo went-on; exec sleep 1000", resources(&runtimeapi.LinuxContainerResources{
		MemoryLimitInBytes: 64 << 20, Unified: map[string]string{"memory.oom.group": "1"},
	}))
	if st := c.Ended(); st.GetExitCode() != 137 || st.GetReason() != "OOMKilled" {
		t.Errorf("%d %s %s", st.GetExitCode(), st.GetReason(), st.GetMessage())
	}
	if left := pids(t, c); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	if log := output(readLog(t, c.LogFile()), "stdout"); strings.Contains(log, "went-on") {
		t.Errorf("it went on: %q", log)
	}
}
