package sandbox

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func cgroupFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCgroupV1Usage(t *testing.T) {
	mem := cgroupFiles(t, map[string]string{
		"memory.usage_in_bytes": "1000\n", "memory.limit_in_bytes": "4000\n", "memory.memsw.usage_in_bytes": "1500\n",
		"memory.stat": "cache 5\ntotal_inactive_file 300\ntotal_rss 600\ntotal_pgfault 7\ntotal_pgmajfault 2\nswap 40\ntotal_swap 480\n",
	})
	acct := cgroupFiles(t, map[string]string{"cpuacct.usage": "123456789\n"})
	pids := cgroupFiles(t, map[string]string{"pids.current": "9\n", "cgroup.procs": "10\n11\n12\n"})
	if err := os.Mkdir(filepath.Join(pids, "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(pids, "below/cgroup.procs"), []byte("13\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := cgroupReader{paths: map[string]string{"memory": mem, "cpuacct": acct, "pids": pids}}
	now := time.Now()
	m := g.memory(now)
	if m.UsageBytes.Value != 1000 || m.WorkingSetBytes.Value != 700 || m.RssBytes.Value != 600 || m.AvailableBytes.Value != 3300 ||
		m.PageFaults.Value != 7 || m.MajorPageFaults.Value != 2 {
		t.Errorf("memory %v", m)
	}
	if c := g.cpu(now); c.UsageCoreNanoSeconds.Value != 123456789 || c.Timestamp != now.UnixNano() {
		t.Errorf("cpu %v", c)
	}
	if s := g.swap(now); s.SwapUsageBytes.Value != 480 {
		t.Errorf("swap %v: it is the cgroup's own and of those below it, from one read", s)
	}
	if n := g.processes(); n != 4 {
		t.Errorf("%d processes: threads don't count, cgroups below do", n)
	}
}

func TestCgroupV2Usage(t *testing.T) {
	dir := cgroupFiles(t, map[string]string{
		"memory.current": "1000\n", "memory.max": "max\n", "memory.swap.current": "10\n", "memory.swap.max": "30\n",
		"memory.stat": "anon 600\ninactive_file 2000\npgfault 7\npgmajfault 2\n", "cpu.stat": "usage_usec 5\nuser_usec 1\n",
		"cpu.pressure": "some avg10=1.50 avg60=0.20 avg300=0.03 total=77\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=7\n",
		"pids.current": "2\n",
	})
	g := cgroupReader{v2: true, paths: map[string]string{"": dir}}
	now := time.Now()
	m := g.memory(now)
	if m.WorkingSetBytes.Value != 0 || m.RssBytes.Value != 600 || m.AvailableBytes != nil {
		t.Errorf("memory %v: a working set can't be negative, no limit is no availability", m)
	}
	c := g.cpu(now)
	if c.UsageCoreNanoSeconds.Value != 5000 || c.Psi.Some.Avg10 != 1.5 || c.Psi.Some.Total != 77_000 || c.Psi.Full.Total != 7_000 {
		t.Errorf("cpu %v: the kernel's microseconds are the CRI's nanoseconds", c)
	}
	if s := g.swap(now); s.SwapUsageBytes.Value != 10 || s.SwapAvailableBytes.Value != 20 {
		t.Errorf("swap %v", s)
	}
}

func TestGoneCgroupIsNoUsage(t *testing.T) {
	g := cgroupReader{paths: map[string]string{"memory": "/nonexistent"}}
	if g.memory(time.Now()) != nil || g.cpu(time.Now()) != nil || g.swap(time.Now()) != nil || g.processes() != 0 {
		t.Error("usage of a cgroup that is not there")
	}
}
