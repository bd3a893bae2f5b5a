package sandbox

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/dirtree"
)

// usageFiles are a cgroup of v2 with some usage and no process.
func usageFiles(t *testing.T) string {
	t.Helper()
	return cgroupFiles(t, map[string]string{
		"cpu.stat": "usage_usec 2000000\nuser_usec 1\nsystem_usec 1\nnr_periods 3\nnr_throttled 1\nthrottled_usec 5\n", "cgroup.procs": "",
		"memory.current": "1000\n", "memory.max": "max\n", "memory.stat": "anon 600\ninactive_file 100\npgfault 7\npgmajfault 2\n",
		"memory.swap.current": "10\n", "io.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=3\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=2\n",
	})
}

// measured runs a container in a cgroup with usage.
func (n *fakeNode) measured(pod, name string) string {
	n.t.Helper()
	n.shim.cgroups(map[string]string{"": usageFiles(n.t)})
	defer n.shim.cgroups(nil)
	return n.run(pod, name)
}

func TestContainerStatsAreTheCgroups(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	id := n.measured(pod, "c")
	mustWrite(t, filepath.Join(n.podDirOf(pod), "containers", id, "upper", "file"))
	st, err := n.m.ContainerStats(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if st.GetAttributes().GetId() != id || st.GetAttributes().GetMetadata().GetName() != "c" {
		t.Errorf("attributes %v", st.GetAttributes())
	}
	if st.GetCpu().GetUsageCoreNanoSeconds().GetValue() != 2e9 || st.GetMemory().GetWorkingSetBytes().GetValue() != 900 || st.GetSwap().GetSwapUsageBytes().GetValue() != 10 {
		t.Errorf("usage: cpu %v, memory %v, swap %v", st.GetCpu(), st.GetMemory(), st.GetSwap())
	}
	if st.GetIo().GetPsi().GetFull().GetTotal() != 2000 {
		t.Errorf("io %v", st.GetIo())
	}
	if l := st.GetWritableLayer(); l.GetInodesUsed().GetValue() != 2 || l.GetFsId().GetMountpoint() != n.root {
		t.Errorf("writable layer %v", l)
	}
	if _, err := n.m.ContainerStats(t.Context(), "unknown"); err == nil {
		t.Error("statistics of an unknown container")
	}
}

// A container that does not run uses no more than its writable layer.
func TestContainerStatsOfWhatHasEnded(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	id := n.measured(pod, "c")
	if err := n.m.StopContainer(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	st, err := n.m.ContainerStats(t.Context(), id)
	if err != nil || st.GetCpu() != nil || st.GetMemory() != nil {
		t.Errorf("%v, %v", st, err)
	}
	if _, ok := n.measuresOf(pod).Containers[id]; ok {
		t.Error("measures of a container that has ended")
	}
}

func TestListContainerStatsLeavesOutWhatIsGone(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	var ids []string
	for _, name := range []string{"c", "d", "e"} {
		ids = append(ids, n.measured(pod, name))
	}
	got := n.m.ListContainerStats(t.Context(), append([]string{"gone"}, ids...))
	if len(got) != 3 {
		t.Fatalf("%d statistics, want 3", len(got))
	}
	for i, st := range got {
		if st.GetAttributes().GetId() != ids[i] {
			t.Errorf("statistics %d are of %s, want the order that was asked for", i, st.GetAttributes().GetId())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := n.m.ListContainerStats(ctx, ids); len(got) > 0 && len(got) > len(ids) {
		t.Errorf("a client that gave up got %d", len(got))
	}
}

// Without a cgroup of its own a pod's usage is the sum over its containers.
func TestPodStatsSumUp(t *testing.T) {
	n := newFakeNode(t)
	pod, other := n.pod("a"), n.pod("other")
	first, second := n.measured(pod, "c"), n.measured(pod, "d")
	n.measured(other, "e")
	st, err := n.m.PodStats(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, c := range st.GetLinux().GetContainers() {
		ids = append(ids, c.GetAttributes().GetId())
	}
	slices.Sort(ids)
	want := []string{first, second}
	slices.Sort(want)
	if !slices.Equal(ids, want) {
		t.Errorf("containers %v, want %v", ids, want)
	}
	l := st.GetLinux()
	if l.GetCpu().GetUsageCoreNanoSeconds().GetValue() != 4e9 || l.GetMemory().GetRssBytes().GetValue() != 1200 || l.GetMemory().GetPageFaults().GetValue() != 14 {
		t.Errorf("cpu %v, memory %v; want the sum of two", l.GetCpu(), l.GetMemory())
	}
	if l.GetProcess().GetProcessCount().GetValue() != 1 {
		t.Errorf("processes %v, want the pause process", l.GetProcess())
	}
	if l.GetNetwork() != nil {
		t.Errorf("network %v of a pod on the host's", l.GetNetwork())
	}
	if all := n.m.ListPodStats(t.Context(), []string{pod, "gone", other}); len(all) != 2 || all[1].GetAttributes().GetMetadata().GetName() != "other" {
		t.Errorf("list: %v", all)
	}
	if _, err := n.m.PodStats(t.Context(), "unknown"); err == nil {
		t.Error("statistics of an unknown pod")
	}
}

// measuresOf are those of a pod that exists.
func (n *fakeNode) measuresOf(pod string) *PodMeasures {
	n.t.Helper()
	list := n.m.MeasurePods(n.t.Context(), []string{pod})
	if len(list) != 1 {
		n.t.Fatalf("%d measures of one pod", len(list))
	}
	return list[0]
}

func TestMeasuresOfARunningContainer(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	id := n.measured(pod, "c")
	all := n.measuresOf(pod)
	m, ok := all.Containers[id]
	if !ok || m.Periods.GetValue() != 3 || m.ThrottledTime.GetValue() != 5000 || m.Disk == nil || m.FileLimit == nil {
		t.Errorf("%+v", m)
	}
	if all.Pod.Interfaces != nil {
		t.Errorf("a pod on the host's network: %+v", all.Pod)
	}
	if st := all.Stats.GetLinux().GetContainers(); len(st) != 1 || st[0].GetCpu().GetUsageCoreNanoSeconds().GetValue() != 2e9 {
		t.Errorf("statistics %v", st)
	}
	if list := n.m.MeasurePods(t.Context(), []string{"unknown", pod}); len(list) != 1 {
		t.Errorf("%d measures, one pod is unknown", len(list))
	}
}

// Each index is worked on once, several at a time, none after the end of the context.
func TestParallel(t *testing.T) {
	var mu sync.Mutex
	seen, at, most := map[int]int{}, 0, 0
	parallel(t.Context(), 50, func(i int) {
		mu.Lock()
		seen[i]++
		at++
		most = max(most, at)
		mu.Unlock()
		time.Sleep(time.Millisecond)
		mu.Lock()
		at--
		mu.Unlock()
	})
	if len(seen) != 50 || most < 2 || most > statsReaders {
		t.Errorf("%d of 50 done, %d at a time", len(seen), most)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	parallel(ctx, 5, func(int) { t.Error("work after the end") })
	parallel(t.Context(), 0, func(int) { t.Error("work without any") })
}

// The own cgroup of a pod tells of it, where the pod's processes are in it.
func TestPodCgroupPaths(t *testing.T) {
	if g := podCgroup(testHost(), ""); len(g.paths) != 0 {
		t.Errorf("paths of no cgroup: %v", g.paths)
	}
	if g := podCgroup(testHost(), "/kubepods/pod1"); g.paths[""] != "/sys/fs/cgroup/kubepods/pod1" {
		t.Errorf("v2: %v", g.paths)
	}
	v1 := testHost()
	v1.CgroupV2 = false
	if g := podCgroup(v1, "/kubepods/pod1"); g.paths["memory"] != "/sys/fs/cgroup/memory/kubepods/pod1" || len(g.paths) < 4 {
		t.Errorf("v1: %v", g.paths)
	}
	if below(cgroupsOf(os.Getpid()), "") || below(cgroupsOf(-1), "/") || below(cgroupsOf(os.Getpid()), "/nonexistent/group") {
		t.Error("a process counted in a cgroup where it is not")
	}
}

// A measure of a layer that is removed meanwhile changes nothing.
func TestStatisticsOfARemovedContainer(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	id := n.measured(pod, "c")
	c := n.m.containerByID(id)
	if err := n.m.RemoveContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if at, usage := c.layer.read(t.Context(), make(chan struct{}, 1), t.TempDir()); !at.IsZero() || usage != (dirtree.Usage{}) {
		t.Errorf("measured %+v at %v after the removal", usage, at)
	}
	if st := n.m.ListContainerStats(t.Context(), []string{id}); len(st) > 0 {
		t.Errorf("statistics %v", st[0])
	}
	var none *runtimeapi.CpuUsage
	setRate(&usageSample{}, time.Now(), none)
}
