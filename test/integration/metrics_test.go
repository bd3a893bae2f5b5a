package integration

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fileMetric is a metric and where the kernel counts it, for each version of cgroups: a
// file, and the key of a line in it; "" is a file with one number. Without a file that
// version does not count it.
type fileMetric struct {
	name       string // after container_, with the values of its own labels
	controller string // of v1
	v1, key1   string
	v2, key2   string
	per1, per2 uint64 // what the number is divided by, 0 for 1
}

var fileMetrics = []fileMetric{
	{"cpu_usage_seconds_total{total}", "cpuacct", "cpuacct.usage", "", "cpu.stat", "usage_usec", 1e9, 1e6},
	{"cpu_user_seconds_total", "cpuacct", "cpuacct.usage_user", "", "cpu.stat", "user_usec", 1e9, 1e6},
	{"cpu_system_seconds_total", "cpuacct", "cpuacct.usage_sys", "", "cpu.stat", "system_usec", 1e9, 1e6},
	{"cpu_cfs_periods_total", "cpu", "cpu.stat", "nr_periods", "cpu.stat", "nr_periods", 0, 0},
	{"cpu_cfs_throttled_periods_total", "cpu", "cpu.stat", "nr_throttled", "cpu.stat", "nr_throttled", 0, 0},
	{"cpu_cfs_throttled_seconds_total", "cpu", "cpu.stat", "throttled_time", "cpu.stat", "throttled_usec", 1e9, 1e6},
	{"cpu_cfs_burst_periods_total", "cpu", "cpu.stat", "nr_bursts", "cpu.stat", "nr_bursts", 0, 0},
	{"cpu_cfs_burst_seconds_total", "cpu", "cpu.stat", "burst_time", "cpu.stat", "burst_usec", 1e9, 1e6},
	{"memory_usage_bytes", "memory", "memory.usage_in_bytes", "", "memory.current", "", 0, 0},
	{"memory_max_usage_bytes", "memory", "memory.max_usage_in_bytes", "", "memory.peak", "", 0, 0},
	{"memory_failcnt", "memory", "memory.failcnt", "", "memory.events", "max", 0, 0},
	{"memory_kernel_usage", "memory", "memory.kmem.usage_in_bytes", "", "memory.stat", "kernel", 0, 0},
	{"memory_cache", "memory", "memory.stat", "total_cache", "memory.stat", "file", 0, 0},
	{"memory_rss", "memory", "memory.stat", "total_rss", "memory.stat", "anon", 0, 0},
	{"memory_swap", "memory", "memory.stat", "total_swap", "memory.swap.current", "", 0, 0},
	{"memory_mapped_file", "memory", "memory.stat", "total_mapped_file", "memory.stat", "file_mapped", 0, 0},
	{"memory_total_active_file_bytes", "memory", "memory.stat", "total_active_file", "memory.stat", "active_file", 0, 0},
	{"memory_total_inactive_file_bytes", "memory", "memory.stat", "total_inactive_file", "memory.stat", "inactive_file", 0, 0},
	{"memory_file_dirty_bytes", "memory", "memory.stat", "total_dirty", "memory.stat", "file_dirty", 0, 0},
	{"memory_file_writeback_bytes", "memory", "memory.stat", "total_writeback", "memory.stat", "file_writeback", 0, 0},
	{"memory_workingset_refault_file_total", "memory", "memory.stat", "total_workingset_refault_file", "memory.stat", "workingset_refault_file", 0, 0},
	{"memory_workingset_refault_anon_total", "memory", "memory.stat", "total_workingset_refault_anon", "memory.stat", "workingset_refault_anon", 0, 0},
	{"memory_pgscan_total", "memory", "", "", "memory.stat", "pgscan", 0, 0},
	{"memory_pgsteal_total", "memory", "", "", "memory.stat", "pgsteal", 0, 0},
	{"memory_events_high_total", "memory", "", "", "memory.events", "high", 0, 0},
	{"memory_events_max_total", "memory", "", "", "memory.events", "max", 0, 0},
	{"memory_failures_total{pgfault,container}", "memory", "memory.stat", "pgfault", "memory.stat", "pgfault", 0, 0},
	{"memory_failures_total{pgmajfault,container}", "memory", "memory.stat", "pgmajfault", "memory.stat", "pgmajfault", 0, 0},
	{"memory_failures_total{pgfault,hierarchy}", "memory", "memory.stat", "total_pgfault", "memory.stat", "pgfault", 0, 0},
	{"memory_failures_total{pgmajfault,hierarchy}", "memory", "memory.stat", "total_pgmajfault", "memory.stat", "pgmajfault", 0, 0},
	{"threads", "pids", "pids.current", "", "pids.current", "", 0, 0},
	{"pressure_cpu_waiting_seconds_total", "", "", "", "cpu.pressure", "some", 0, 1e6},
	{"pressure_cpu_stalled_seconds_total", "", "", "", "cpu.pressure", "full", 0, 1e6},
	{"pressure_memory_waiting_seconds_total", "", "", "", "memory.pressure", "some", 0, 1e6},
	{"pressure_memory_stalled_seconds_total", "", "", "", "memory.pressure", "full", 0, 1e6},
	{"pressure_io_waiting_seconds_total", "", "", "", "io.pressure", "some", 0, 1e6},
	{"pressure_io_stalled_seconds_total", "", "", "", "io.pressure", "full", 0, 1e6},
}

// read gives the kernel's number in the cgroup whose directory dir gives for a
// controller; false when this kernel does not count it.
func (f fileMetric) read(t *testing.T, dir func(controller string) string) (uint64, bool) {
	t.Helper()
	file, key, per := f.v1, f.key1, f.per1
	if v2 {
		file, key, per = f.v2, f.key2, f.per2
	}
	if file == "" {
		return 0, false
	}
	data, err := os.ReadFile(filepath.Join(dir(f.controller), file))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		w := strings.Fields(line)
		switch {
		case key == "" && len(w) == 1, len(w) == 2 && w[0] == key: // a number, a key and one
			return number(t, w[len(w)-1]) / max(per, 1), true
		case len(w) == 5 && w[0] == key: // pressure
			return number(t, strings.TrimPrefix(w[4], "total=")) / max(per, 1), true
		}
	}
	return 0, false
}

// devices are the series that the kernel's counts of block devices give.
func blockDevices(t *testing.T, dir func(controller string) string) map[string]uint64 {
	t.Helper()
	out := map[string]uint64{}
	put := func(number, operation string, bytes, n uint64) {
		major, minor, _ := strings.Cut(number, ":")
		device := number
		data, _ := os.ReadFile(filepath.Join("/sys/dev/block", number, "uevent"))
		for line := range strings.Lines(string(data)) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
				device = "/dev/" + name
			}
		}
		verb := strings.ToLower(operation) + "s"
		out["fs_"+verb+"_bytes_total{"+device+"}"], out["fs_"+verb+"_total{"+device+"}"] = bytes, n
		out["fs_sector_"+verb+"_total{"+device+"}"] = bytes / 512
		out["blkio_device_usage_total{"+strings.Join([]string{device, major, minor, operation}, ",")+"}"] = bytes
	}
	text := func(file string) string {
		data, _ := os.ReadFile(filepath.Join(dir("blkio"), file))
		return string(data)
	}
	if v2 {
		for line := range strings.Lines(text("io.stat")) {
			w, n := strings.Fields(line), map[string]uint64{}
			for _, pair := range w[1:] {
				key, val, _ := strings.Cut(pair, "=")
				if slices.Contains([]string{"rbytes", "wbytes", "rios", "wios"}, key) {
					n[key] = number(t, val)
				}
			}
			put(w[0], "Read", n["rbytes"], n["rios"])
			put(w[0], "Write", n["wbytes"], n["wios"])
		}
		return out
	}
	layer := "blkio.throttle."
	if strings.Contains(text("blkio.bfq.io_serviced_recursive"), ":") {
		layer = "blkio.bfq."
	}
	bytes := map[string]uint64{}
	for line := range strings.Lines(text(layer + "io_service_bytes_recursive")) {
		if w := strings.Fields(line); len(w) == 3 {
			bytes[w[0]+w[1]] = number(t, w[2])
		}
	}
	for line := range strings.Lines(text(layer + "io_serviced_recursive")) {
		if w := strings.Fields(line); len(w) == 3 && (w[1] == "Read" || w[1] == "Write") {
			put(w[0], w[1], bytes[w[0]+w[1]], number(t, w[2]))
		}
	}
	return out
}

// series gives the values of a pod's own metrics and of those of its only container, by
// name and own labels.
func (p *pod) series() (ofPod, ofContainer map[string]uint64) {
	p.T.Helper()
	r, err := p.s.Runtime.ListPodSandboxMetrics(within(p.T), &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil {
		p.T.Fatalf("ListPodSandboxMetrics: %v", err)
	}
	const base = 6 // labels of every metric
	take := func(list []*runtimeapi.Metric) map[string]uint64 {
		out := map[string]uint64{}
		for _, m := range list {
			name := strings.TrimPrefix(m.GetName(), "container_")
			if own := m.GetLabelValues()[base:]; len(own) > 0 {
				name += "{" + strings.Join(own, ",") + "}"
			}
			if _, ok := out[name]; ok {
				p.T.Fatalf("%s is told twice", name)
			}
			out[name] = m.GetValue().GetValue()
		}
		return out
	}
	for _, pm := range r.GetPodMetrics() {
		if pm.GetPodSandboxId() != p.ID {
			continue
		}
		if n := len(pm.GetContainerMetrics()); n != 1 {
			p.T.Fatalf("metrics of %d containers, one runs", n)
		}
		return take(pm.GetMetrics()), take(pm.GetContainerMetrics()[0].GetMetrics())
	}
	p.T.Fatal("no metrics of the pod")
	return nil, nil
}

// kernelSays reads all that the files of a cgroup tell.
func kernelSays(t *testing.T, dir func(controller string) string) map[string]uint64 {
	t.Helper()
	out := blockDevices(t, dir)
	for _, f := range fileMetrics {
		if n, ok := f.read(t, dir); ok {
			out[f.name] = n
		}
	}
	return out
}

// Every metric of a container and of its pod's own cgroup has the number of the kernel's
// file, and none is told that this kernel does not count.
func TestMetricsAreTheirFiles(t *testing.T) {
	if systemdDriver(t) {
		t.Skip("this pod names no slice, so that it has no cgroup of its own")
	}
	p := shared.pod(t)
	c := p.start("c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/file bs=65536 count=32 oflag=direct conv=fsync 2>/dev/null; dd if=/dev/zero of=/cached bs=65536 count=8 2>/dev/null; echo up; exec sleep 1000",
		resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuPeriod: 100_000, CpuQuota: 50_000}))
	c.says("up")
	dir := map[string]string{}
	for _, f := range append(fileMetrics, fileMetric{controller: "blkio"}) {
		if v2 || f.controller != "" {
			dir[f.controller] = cgroupDir(t, c.hostPID(), f.controller)
		}
	}
	container := func(controller string) string { return dir[controller] }
	own := func(controller string) string { return filepath.Dir(dir[controller]) }
	var wrong []string
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(strings.Join(wrong, "\n"))
		}
	})
	told := 0
	compare := func(what string, before, got, after map[string]uint64) {
		for name, most := range after {
			least, n := min(before[name], most), got[name]
			if _, ok := got[name]; !ok || n < least || n > max(before[name], most) {
				wrong = append(wrong, fmt.Sprintf("%s: container_%s is %d, the kernel says %d to %d", what, name, n, least, most))
			}
		}
		for _, f := range fileMetrics {
			if _, ok := after[f.name]; ok {
				told++
			} else if n, ok := got[f.name]; ok {
				wrong = append(wrong, fmt.Sprintf("%s: container_%s is %d, the kernel has no such number", what, f.name, n))
			}
		}
	}
	eventually(t, "every metric is what the kernel says", func() bool {
		wrong, told = nil, 0
		podBefore, before := kernelSays(t, own), kernelSays(t, container)
		podGot, got := p.series()
		compare("pod", podBefore, podGot, kernelSays(t, own))
		compare("container", before, got, kernelSays(t, container))
		return len(wrong) == 0
	})
	if told < 2*25 {
		t.Errorf("%d metrics were compared", told)
	}
	_, got := p.series()
	for _, name := range []string{"cpu_cfs_periods_total", "memory_cache", "memory_failures_total{pgfault,container}"} {
		if got[name] == 0 {
			t.Errorf("container_%s is 0 after work", name)
		}
	}
	t.Logf("%d metrics compared, block devices %v", told, slices.Sorted(maps.Keys(blockDevices(t, container))))
}
