package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (p *pod) stats() *runtimeapi.LinuxPodSandboxStats {
	p.T.Helper()
	r, err := p.s.Runtime.PodSandboxStats(within(p.T), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: p.ID})
	if err != nil {
		p.T.Fatalf("PodSandboxStats: %v", err)
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
	p.start("burns", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done").Ended()

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

// metricNames are those of cAdvisor that need neither pressure nor huge pages, which
// this kernel may lack, nor a block device that was used.
var metricNames = strings.Fields(`
cpu_cfs_periods_total cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total cpu_system_seconds_total
cpu_usage_seconds_total cpu_user_seconds_total file_descriptors fs_inodes_free fs_inodes_total fs_limit_bytes fs_usage_bytes
last_seen memory_cache memory_failcnt memory_failures_total memory_kernel_usage memory_mapped_file memory_max_usage_bytes
memory_rss memory_swap memory_usage_bytes memory_working_set_bytes network_receive_bytes_total network_receive_errors_total
network_receive_packets_dropped_total network_receive_packets_total network_transmit_bytes_total
network_transmit_errors_total network_transmit_packets_dropped_total network_transmit_packets_total oom_events_total
processes sockets spec_cpu_period spec_cpu_quota spec_cpu_shares spec_memory_limit_bytes
spec_memory_reservation_limit_bytes spec_memory_swap_limit_bytes start_time_seconds threads threads_max ulimits_soft`)

// metrics gives, of a pod and its containers, the value of the last series of each name.
func (p *pod) metrics() map[string]uint64 {
	p.T.Helper()
	r, err := p.s.Runtime.ListPodSandboxMetrics(within(p.T), &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil {
		p.T.Fatalf("ListPodSandboxMetrics: %v", err)
	}
	out, series := map[string]uint64{}, map[string]bool{}
	for _, pm := range r.GetPodMetrics() {
		if pm.GetPodSandboxId() != p.ID {
			continue
		}
		list := pm.GetMetrics()
		for _, c := range pm.GetContainerMetrics() {
			list = append(list, c.GetMetrics()...)
		}
		for _, m := range list {
			one := m.GetName() + "{" + strings.Join(m.GetLabelValues(), ",") + "}"
			if series[one] {
				p.T.Fatalf("%s is told twice", one)
			}
			series[one] = true
			out[strings.TrimPrefix(m.GetName(), "container_")] = m.GetValue().GetValue()
		}
	}
	return out
}

// perhaps are the metrics that may be described and not sent: of a kernel that counts no
// pressure, and of block devices before one is used.
var perhaps = regexp.MustCompile(`^(pressure_.*|blkio_device_usage_total|fs_(reads|writes)(_bytes)?_total)$`)

// described gives the names of the metrics that the CRI describes.
func (p *pod) described() (names []string) {
	p.T.Helper()
	r, err := p.s.Runtime.ListMetricDescriptors(within(p.T), &runtimeapi.ListMetricDescriptorsRequest{})
	if err != nil {
		p.T.Fatalf("ListMetricDescriptors: %v", err)
	}
	for _, d := range r.GetDescriptors() {
		names = append(names, strings.TrimPrefix(d.GetName(), "container_"))
	}
	return names
}

// Every metric of a running container is there, once, and says what the kernel does.
func TestMetricsAreTheKernels(t *testing.T) {
	p := shared.pod(t)
	const limit = 64 << 20
	c := p.start("threads", "", runs(t, "signal"), resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: limit, CpuPeriod: 100_000, CpuQuota: 50_000}))
	pid := c.hostPID()
	sent := func() uint64 {
		for line := range strings.Lines(procFile(t, pid, "net/dev")) {
			if f := strings.Fields(line); len(f) > 10 && f[0] == "eth0:" {
				return number(t, f[10])
			}
		}
		t.Fatal("no eth0")
		return 0
	}
	before := sent()
	got := p.metrics()
	for _, name := range metricNames {
		if _, ok := got[name]; !ok {
			t.Errorf("container_%s is missing", name)
		}
	}
	for _, name := range p.described() {
		if _, ok := got[name]; !ok && !perhaps.MatchString(name) {
			t.Errorf("container_%s is described and not sent", name)
		}
	}
	// The program's own runtime may still start threads: what is told is compared until
	// nothing changes between the two readings.
	var wrong []string
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(wrong)
		}
	})
	eventually(t, "every metric is what the kernel says", func() bool {
		got, wrong = p.metrics(), nil
		for name, want := range kernelsOwn(t, c, pid) {
			if got[name] != want {
				wrong = append(wrong, fmt.Sprintf("container_%s is %d, the kernel says %d", name, got[name], want))
			}
		}
		return len(wrong) == 0 && got["threads"] > 1
	})
	if got["spec_memory_limit_bytes"] != limit || got["spec_cpu_quota"] != 50_000 || got["spec_cpu_period"] != 100_000 {
		t.Errorf("limits: %v", got)
	}
	if n := got["network_transmit_packets_total"]; n < before || n > sent() || n == 0 {
		t.Errorf("%d packets sent, the kernel counted %d before and %d after", n, before, sent())
	}
}

// kernelsOwn reads the values of metrics where the kernel has them.
func kernelsOwn(t *testing.T, c *ctr, pid int) map[string]uint64 {
	t.Helper()
	memory := cgroupDir(t, pid, "memory")
	mapped := "total_mapped_file"
	if v2 {
		mapped = "file_mapped"
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(shared.Root, &fs); err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	sockets := uint64(0)
	for _, fd := range fds {
		if to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name())); strings.HasPrefix(to, "socket:") {
			sockets++
		}
	}
	return map[string]uint64{
		"processes": 1, "threads": number(t, cgroupValue(t, c, "pids", "pids.current", "pids.current")),
		"file_descriptors": uint64(len(fds)), "sockets": sockets, "fs_inodes_total": fs.Files, "fs_limit_bytes": fs.Blocks * uint64(fs.Bsize),
		"memory_mapped_file":     cgroupKey(t, memory, "memory.stat", "memory.stat", mapped),
		"memory_max_usage_bytes": number(t, cgroupRead(t, memory, "memory.max_usage_in_bytes", "memory.peak")),
		"memory_failcnt":         0, "oom_events_total": 0,
	}
}
