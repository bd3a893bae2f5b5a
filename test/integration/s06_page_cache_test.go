package integration

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/cmd/berth/explain"
)

// cacheNotAnonymous is the fact when some 60 MiB are cache and a shell is the rest.
var cacheNotAnonymous = regexp.MustCompile(`^6\d\S* MiB used: \d+ KiB anonymous, [56]\d\S* MiB page cache; working set `)

// S06: the page cache fills a limit of 64 MiB. Nobody is killed for it, the working
// set is told as the kubelet computes it, and explain tells cache from memory that
// the kernel can't take back. Files that are read twice are on the active list,
// which the kubelet's working set counts and the kernel takes back all the same.
func TestS06PageCache(t *testing.T) {
	var st unix.Statfs_t
	if err := unix.Statfs(shared.Root, &st); err != nil || st.Type == unix.TMPFS_MAGIC {
		t.Skipf("%s is no disk (%v): what is written there is memory, not page cache", shared.Root, err)
	}
	p := shared.pod(t)
	limit := resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20})
	for name, c := range map[string]struct {
		script string
		active bool
	}{
		"written": {"dd if=/dev/zero of=/big bs=1M count=128", false},
		"read":    {"dd if=/dev/zero of=/big bs=1M count=61; sync; for i in 1 2 3 4; do cat /big >/dev/null; done", true},
	} {
		t.Run(name, func(t *testing.T) {
			run := p.in(t).idle(name, limit)
			dir := cgroupDir(t, run.hostPID(), "memory")
			report := filled(t, run, dir, c.script)
			if n := oomKills(t, dir); n != 0 {
				t.Errorf("the kernel killed %d times", n)
			}
			cacheExplained(t, report)
			set := workingSet(t, run, dir)
			if set > 32<<20 && !c.active {
				t.Errorf("the working set is %d, though nothing was read twice", set)
			}
			if set < 32<<20 && c.active { // MGLRU, an option of the kernel
				t.Skip("this kernel leaves on the inactive list what was read often; only inactive cache was tested")
			}
		})
	}
}

// filled has the script fill the limit and gives what explain says of it. The kernel
// may give some back at any time, as its host may need it, and then it is filled
// again: what still is full was full when explain looked.
func filled(t *testing.T, c *ctr, dir, script string) *explain.Report {
	t.Helper()
	for range 10 {
		c.Sh(script + " 2>/dev/null; sync")
		report := c.p.s.explain(t, c.ID)
		if usage := number(t, cgroupRead(t, dir, "memory.usage_in_bytes", "memory.current")); usage >= 61<<20 {
			return report
		}
	}
	t.Fatal("the cache does not fill the limit")
	return nil
}

func cacheExplained(t *testing.T, r *explain.Report) {
	t.Helper()
	if !strings.HasPrefix(r.Likely, "cgroup: ") || !strings.Contains(r.Likely, "of it is page cache: nothing: the kernel takes it back") {
		t.Errorf("explain finds most likely %q", r.Likely)
	}
	if got := factOf(r, "cgroup", "memory"); !cacheNotAnonymous.MatchString(got) {
		t.Errorf("explain has memory %q", got)
	}
}

// workingSet compares with the kernel's files, read before and after the daemon
// reads them: the same when the kernel did nothing meanwhile.
func workingSet(t *testing.T, c *ctr, dir string) uint64 {
	t.Helper()
	read := func() [2]uint64 {
		return [2]uint64{
			number(t, cgroupRead(t, dir, "memory.usage_in_bytes", "memory.current")),
			cgroupKey(t, dir, "memory.stat", "memory.stat", map[bool]string{true: "inactive_file", false: "total_inactive_file"}[v2]),
		}
	}
	for deadline := time.Now().Add(patience); ; {
		before := read()
		r, err := c.p.s.Runtime.ContainerStats(within(t), &runtimeapi.ContainerStatsRequest{ContainerId: c.ID})
		if err != nil {
			t.Fatal(err)
		}
		if before == read() {
			m := r.GetStats().GetMemory()
			if got, want := m.GetWorkingSetBytes().GetValue(), before[0]-before[1]; got != want || m.GetUsageBytes().GetValue() != before[0] {
				t.Errorf("working set %d, usage %d; the kernel's files give %d of %d", got, m.GetUsageBytes().GetValue(), want, before[0])
			}
			return m.GetWorkingSetBytes().GetValue()
		}
		if time.Now().After(deadline) {
			t.Fatal("the kernel's figures never stand still")
		}
	}
}
