package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (p *pod) stats() *runtimeapi.LinuxPodSandboxStats {
	p.t.Helper()
	r, err := p.s.Runtime.PodSandboxStats(within(p.t), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: p.ID})
	if err != nil {
		p.t.Fatalf("PodSandboxStats: %v", err)
	}
	return r.GetStats().GetLinux()
}

// dirOf is where a cgroup of a name is in the hierarchy of a controller.
func dirOf(name, controller string) string {
	if v2 {
		controller = ""
	}
	return filepath.Join("/sys/fs/cgroup", controller, name)
}

// cpuOf is what the kernel counts in a cgroup, in nanoseconds.
func cpuOf(t *testing.T, name string) uint64 {
	t.Helper()
	if v2 {
		return 1000 * cgroupKey(t, dirOf(name, ""), "", "cpu.stat", "usage_usec")
	}
	return number(t, cgroupRead(t, dirOf(name, "cpuacct"), "cpuacct.usage", ""))
}

// The numbers of a pod are its cgroup's: they keep what an ended container used, obey
// the pod's limit, and count processes, not threads; each interface is told once.
func TestPodStatsAreOfThePodsCgroup(t *testing.T) {
	if systemdDriver(t) {
		t.Skip("slices are systemd's to make; this test makes the pod's cgroup itself")
	}
	name := shared.CgroupMark + "-stats"
	limit := "memory.limit_in_bytes"
	if v2 {
		limit = "memory.max"
	}
	for _, dir := range cgroupDirs(name) {
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
	}
	const most = 200 << 20
	if err := os.WriteFile(filepath.Join(dirOf(name, "memory"), limit), []byte(strconv.Itoa(most)), 0o600); err != nil {
		t.Fatal(err)
	}
	p := shared.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "/" + name })
	p.start("threads", "", runs(t, "signal"))
	p.start("burns", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done").ended()

	before := cpuOf(t, name)
	st := p.stats()
	if got := st.GetCpu().GetUsageCoreNanoSeconds().GetValue(); got < before || got > cpuOf(t, name) || before < 20e6 {
		t.Errorf("CPU %d ns, the kernel counted %d before", got, before)
	}
	if got := st.GetProcess().GetProcessCount().GetValue(); got != 2 {
		t.Errorf("%d processes, want pause and the one of many threads", got)
	}
	mem := st.GetMemory()
	if sum := mem.GetAvailableBytes().GetValue() + mem.GetWorkingSetBytes().GetValue(); sum != most {
		t.Errorf("available and working set are %d, the pod's limit is %d: %v", sum, most, mem)
	}
	if v2 && (st.GetIo().GetPsi() == nil || st.GetCpu().GetPsi() == nil || mem.GetPsi() == nil) {
		t.Errorf("pressure is missing: %v", st)
	}
	net := st.GetNetwork()
	if net.GetDefaultInterface().GetName() != "eth0" || len(net.GetInterfaces()) != 0 {
		t.Errorf("network: %v, want eth0 alone and once", net)
	}
}
