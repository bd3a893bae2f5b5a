package sandbox

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
)

// podStats reads the pod's own cgroup, whose counters keep what ended containers used;
// own is where that is (see ownCgroups). What is not told there is the sum over the
// containers. If more is not nil, the measures are put there as well, see its methods own
// and add.
func (u *statistics) podStats(wait patience, s *Sandbox, own string, more *PodMeasures) *runtimeapi.PodSandboxStats {
	st := s.status.Load()
	if st == nil {
		return nil
	}
	now := time.Now()
	g := podCgroup(u.host, own)
	g.open = &s.open
	linux := &runtimeapi.LinuxPodSandboxStats{
		Cpu: g.cpu(now), Memory: g.memory(now), Io: g.io(now),
		Process: &runtimeapi.ProcessUsage{Timestamp: now.UnixNano(), ProcessCount: u64(g.processes())},
	}
	sums := &runtimeapi.LinuxPodSandboxStats{
		Cpu:    &runtimeapi.CpuUsage{Timestamp: now.UnixNano(), UsageCoreNanoSeconds: u64(0)},
		Memory: &runtimeapi.MemoryUsage{Timestamp: now.UnixNano(), UsageBytes: u64(0), WorkingSetBytes: u64(0), RssBytes: u64(0), PageFaults: u64(0), MajorPageFaults: u64(0)},
	}
	var devices []netDevice
	if st.PID > 0 {
		if !s.runsBelow(st.PID, own) {
			linux.Process.ProcessCount.Value++
		}
		if st.NetNS != "" {
			devices = netDevices(st.PID)
			linux.Network = networkUsage(devices, now)
		}
	}
	more.own(g, devices)
	for _, c := range u.index.containersOf(s) {
		cs, cg := u.containerStats(wait, c)
		if cs == nil {
			continue
		}
		more.add(c, cg)
		linux.Containers = append(linux.Containers, cs)
		addUsage(sums, cs)
		if own == "" {
			linux.Process.ProcessCount.Value += cgroupReader{v2: u.host.CgroupV2, paths: c.status.Load().Cgroups}.processes()
		}
	}
	if linux.Cpu == nil {
		linux.Cpu = sums.Cpu
	}
	if linux.Memory == nil {
		linux.Memory = sums.Memory
	}
	setRate(&s.usage, now, linux.Cpu)
	return &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{
			Id: s.id, Metadata: st.Config.GetMetadata(), Labels: st.Config.GetLabels(), Annotations: st.Config.GetAnnotations(),
		},
		Linux: linux,
	}
}

func addUsage(sum *runtimeapi.LinuxPodSandboxStats, cs *runtimeapi.ContainerStats) {
	sum.Cpu.UsageCoreNanoSeconds.Value += cs.GetCpu().GetUsageCoreNanoSeconds().GetValue()
	mem := cs.GetMemory()
	sum.Memory.UsageBytes.Value += mem.GetUsageBytes().GetValue()
	sum.Memory.WorkingSetBytes.Value += mem.GetWorkingSetBytes().GetValue()
	sum.Memory.RssBytes.Value += mem.GetRssBytes().GetValue()
	sum.Memory.PageFaults.Value += mem.GetPageFaults().GetValue()
	sum.Memory.MajorPageFaults.Value += mem.GetMajorPageFaults().GetValue()
}

// ownCgroups gives, by the pods' IDs, the cgroups that are of one ready pod alone: the
// parent that its configuration names, as a path below the hierarchy's root. A parent
// that is given to several pods, or that has another pod's below it, tells of no pod.
func (u *statistics) ownCgroups() map[string]string {
	own, users := make(map[string]string), make(map[string]int)
	for _, s := range u.index.allPods() {
		if st := s.status.Load(); st == nil || st.State != runtimeapi.PodSandboxState_SANDBOX_READY {
			continue
		}
		rec := s.rec.get()
		dir := cgroupPath(u.host, cgroupParent(u.host, rec))
		for p := dir; p != "/"; p = path.Dir(p) {
			users[p]++
		}
		if dir != "/" && (rec.config.GetLinux().GetCgroupParent() != "" || !u.host.SystemdCgroup) {
			own[s.id] = dir
		}
	}
	for id, dir := range own {
		if users[dir] > 1 {
			delete(own, id)
		}
	}
	return own
}

// cgroupPath is where a cgroup is below the hierarchy's root. systemd keeps the slice
// a-b.slice in a.slice.
func cgroupPath(h oci.Host, parent string) string {
	name, isSlice := strings.CutSuffix(path.Base(parent), ".slice")
	if !h.SystemdCgroup || !isSlice {
		return path.Clean("/" + parent)
	}
	if name == "-" {
		return "/" // the root slice
	}
	full, dir := "", "/"
	for part := range strings.SplitSeq(name, "-") {
		if full != "" {
			full += "-"
		}
		full += part
		dir = path.Join(dir, full+".slice")
	}
	return dir
}

// podCgroup reads the cgroup at a path; of "" nothing can be read.
func podCgroup(h oci.Host, own string) cgroupReader {
	g := reader(h.CgroupV2, nil)
	switch {
	case own == "":
	case h.CgroupV2:
		g.paths = map[string]string{"": filepath.Join(cgroupRoot, own)}
	default:
		g.paths = make(map[string]string)
		for _, controller := range []string{"cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb"} {
			g.paths[controller] = filepath.Join(cgroupRoot, controller, own)
		}
	}
	return g
}

// runsBelow tells whether the pause process is counted in the pod's own cgroup. It stays where
// it was started.
func (s *Sandbox) runsBelow(pid int, own string) bool {
	if known := s.counted.Load(); known != nil && known.own == own {
		return known.below
	}
	groups := cgroupsOf(pid)
	if groups == "" {
		return false // it ended
	}
	found := &pauseCounted{own, below(groups, own)}
	s.counted.Store(found)
	return found.below
}

// pauseCounted is what was found of a pause process and a cgroup.
type pauseCounted struct {
	own   string
	below bool
}

// cgroupsOf is the text of /proc/PID/cgroup; "" of a process that ended.
func cgroupsOf(pid int) string { return readText(fmt.Sprintf("/proc/%d/cgroup", pid)) }

// below tells whether a process with these cgroups is in the cgroup own or below it, so that
// it is counted there.
func below(groups, own string) bool {
	if own == "" {
		return false
	}
	for line := range strings.Lines(groups) {
		if _, dir, ok := strings.Cut(strings.TrimSpace(line), ":/"); ok && strings.HasPrefix("/"+dir+"/", own+"/") {
			return true
		}
	}
	return false
}
