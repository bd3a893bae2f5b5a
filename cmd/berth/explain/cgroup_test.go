package explain

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// findings of a running container with cgroups at paths, a line each.
func findings(t *testing.T, paths map[string]string) string {
	t.Helper()
	fact := running(t)
	fact.CgroupPaths = paths
	pods, _ := records(t, fact, "")
	return lines(t, pods)
}

func lines(t *testing.T, pods *Pods) string {
	t.Helper()
	r, err := pods.Explain("web")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range r.Findings {
		out = append(out, f.line())
	}
	return strings.Join(out, "\n")
}

// cgroupFiles makes a directory as the kernel has them.
func cgroupFiles(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, text := range files {
		write(t, filepath.Join(dir, name), text)
	}
	return dir
}

// A group on v1 and one on v2, as the kernel writes them.
func TestCgroupFacts(t *testing.T) {
	v1 := cgroupFiles(t, t.TempDir(), map[string]string{
		"memory.usage_in_bytes": "1000000", "memory.limit_in_bytes": "1048576", "memory.stat": "total_rss 100\ntotal_cache 900000\ntotal_inactive_file 900000\n",
		"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", "cpu.cfs_quota_us": "20000", "cpu.cfs_period_us": "100000",
		"cpu.stat": "nr_periods 10\nnr_throttled 9\nthrottled_time 5000000\n", "pids.max": "5", "pids.current": "5", "pids.events": "max 3\n",
	})
	v2 := cgroupFiles(t, t.TempDir(), map[string]string{
		"memory.current": "1000000", "memory.max": "1048576", "memory.stat": "anon 990000\nfile 10\ninactive_file 0\n", "memory.events": "oom 1\noom_kill 2\n",
		"cpu.max": "20000 100000", "cpu.stat": "nr_periods 10\nnr_throttled 0\nthrottled_usec 0\n", "pids.max": "max", "pids.current": "5",
		"memory.pressure": "some avg10=0.00 avg60=50.00 avg300=0.00 total=0\nfull avg10=10.00 avg60=40.00 avg300=0.00 total=0\n",
	})
	for name, c := range map[string]struct {
		paths map[string]string
		want  []string
		never string
	}{
		"v1": {map[string]string{"memory": v1, "cpu": v1, "pids": v1, "": t.TempDir()}, []string{"page cache", "CPU limit of 0.2 CPUs", "pids limit of 5"}, "kills"},
		"v2": {map[string]string{"": v2}, []string{"working set is at the limit", "processes of it for memory (2)", "waits for memory 40 %"}, "pids limit"},
	} {
		all := findings(t, c.paths)
		for _, want := range c.want {
			if !strings.Contains(all, want) {
				t.Errorf("%s: no %q in\n%s", name, want, all)
			}
		}
		if strings.Contains(all, c.never) {
			t.Errorf("%s: %q in\n%s", name, c.never, all)
		}
	}
}

// Cache is taken back before anything is killed, active or not; shared memory,
// which the kernel counts as cache, is not.
func TestMemoryThatIsCache(t *testing.T) {
	for name, c := range map[string]struct{ v1, v2, want string }{
		"inactive": {"total_cache 990000\ntotal_inactive_file 990000\n", "file 990000\ninactive_file 990000\n", "of it is page cache"},
		"active":   {"total_cache 990000\ntotal_active_file 990000\n", "file 990000\nactive_file 990000\n", "of it is page cache"},
		"shared":   {"total_cache 990000\ntotal_shmem 990000\n", "file 990000\nshmem 990000\n", "working set is at the limit"},
	} {
		v1 := cgroupFiles(t, t.TempDir(), map[string]string{"memory.usage_in_bytes": "1000000", "memory.limit_in_bytes": "1048576", "memory.stat": c.v1})
		v2 := cgroupFiles(t, t.TempDir(), map[string]string{"memory.current": "1000000", "memory.max": "1048576", "memory.stat": c.v2})
		for version, paths := range map[string]map[string]string{"v1": {"memory": v1}, "v2": {"": v2}} {
			if got := findings(t, paths); !strings.Contains(got, c.want) {
				t.Errorf("%s, %s: no %q in\n%s", name, version, c.want, got)
			}
		}
	}
}

// A pod's limit is on a cgroup above; v1 counts refused forks where they failed, v2
// since Linux 6.11 where the limit is. What is left of an ended container tells too.
func TestPidsLimitAbove(t *testing.T) {
	const gone = "gone" // a file that says that systemd has removed the directory
	for name, c := range map[string]struct {
		above, own map[string]string
		want       string
	}{
		"v1":       {map[string]string{"pids.max": "32", "pids.current": "9", "pids.events": "max 0\n"}, map[string]string{"pids.events": "max 3\n"}, "pids limit of 32, of the cgroup above,"},
		"v2":       {map[string]string{"pids.max": "32", "pids.current": "9", "pids.events": "max 7\n", "pids.events.local": "max 3\n"}, map[string]string{"pids.events": "max 0\n"}, "pids limit of 32, of the cgroup above,"},
		"full":     {map[string]string{"pids.max": "5", "pids.current": "5"}, nil, "pids limit of 5, of the cgroup above,"},
		"own":      {map[string]string{"pids.max": "32", "pids.current": "5"}, map[string]string{"pids.max": "5"}, "pids limit of 5 was reached"},
		"siblings": {map[string]string{"pids.max": "32", "pids.current": "9", "pids.events": "max 7\n", "pids.events.local": "max 0\n"}, nil, ""},
		"gone":     {map[string]string{"pids.max": "32", "pids.current": "9", "pids.events.local": "max 3\n"}, map[string]string{gone: ""}, "pids limit of 32, of the cgroup above,"},
		"no limit": {map[string]string{"pids.max": "max", "pids.current": "9"}, nil, ""},
	} {
		above := cgroupFiles(t, t.TempDir(), c.above)
		own := cgroupFiles(t, filepath.Join(above, "own"), map[string]string{"pids.max": "max", "pids.current": "5"})
		cgroupFiles(t, own, c.own)
		if _, ok := c.own[gone]; ok {
			if err := os.RemoveAll(own); err != nil {
				t.Fatal(err)
			}
		}
		ended := stopped(0)
		ended.CgroupPaths = map[string]string{"pids": own}
		pods, _ := records(t, ended, "")
		for state, got := range map[string]string{"running": findings(t, ended.CgroupPaths), "ended": lines(t, pods)} {
			if c.want == "" && strings.Contains(got, "pids limit") || !strings.Contains(got, c.want) {
				t.Errorf("%s, %s: want %q in\n%s", name, state, c.want, got)
			}
		}
	}
}
