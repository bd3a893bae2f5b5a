package sandbox

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodMeasures are a pod's statistics and what the CRI's metrics tell beside them.
type PodMeasures struct {
	Stats      *runtimeapi.PodSandboxStats
	Pod        Measures            // of the pod's own cgroup and network; empty where it has none
	Containers map[string]Measures // of those that run, by ID
}

// Measures are what the CRI's metrics tell and its stats have no place for. Counts are
// since the start; nil is what this machine does not count.
//
// The usage, working set, RSS and page faults that the CRI's statistics have are not here
// but in the Stats of a [PodMeasures]; cgroupstats.go reads them.
type Measures struct {
	Periods, Throttled    *runtimeapi.UInt64Value // of the CPU limit, and those in which it was used up
	ThrottledTime         *runtimeapi.UInt64Value // nanoseconds
	Bursts, BurstTime     *runtimeapi.UInt64Value // periods in which saved time was used, and nanoseconds of it
	UserCPU, SystemCPU    *runtimeapi.UInt64Value // nanoseconds
	OOMKills              *runtimeapi.UInt64Value // processes, the first one and others; nil for a pod on v1
	Faults, MajorFaults   *runtimeapi.UInt64Value // of the cgroup itself on v1, with those below it on v2
	HighEvents, MaxEvents *runtimeapi.UInt64Value // how often memory.high and memory.max were met; v2

	Cache, Mapped            *runtimeapi.UInt64Value // bytes of the page cache, and of files mapped
	ActiveFile, InactiveFile *runtimeapi.UInt64Value // bytes of the page cache, used of late or not
	Dirty, Writeback         *runtimeapi.UInt64Value // bytes of the page cache, to be written and being written
	Scanned, Reclaimed       *runtimeapi.UInt64Value // pages, by memory reclaim; v2
	FileRefaults             *runtimeapi.UInt64Value // pages that were needed again after they had been taken
	AnonRefaults             *runtimeapi.UInt64Value
	Kernel                   *runtimeapi.UInt64Value // bytes of the kernel's memory
	PeakMemory               *runtimeapi.UInt64Value // bytes, the highest usage
	MemoryReserved           *runtimeapi.UInt64Value // bytes, 0 for none: on v2 what is never taken back, on v1 what is taken back last
	MemoryLimitHits          *runtimeapi.UInt64Value // how often the limit was met
	Swap                     *runtimeapi.UInt64Value // bytes

	Threads        *runtimeapi.UInt64Value
	ThreadLimit    *runtimeapi.UInt64Value // the limit, 0 for none
	Processes      uint64                  // of a container
	Files, Sockets uint64                  // open ones of a container, see maxDescriptors
	FileLimit      *runtimeapi.UInt64Value // the first process's soft limit; nil for none
	Devices        []DeviceIO
	HugePages      []HugePages
	Disk           *Disk // of writable layers
	Interfaces     []InterfacePackets
	Limits         Limits
}

// Limits are those of a cgroup; 0 is none, nil is unknown.
type Limits struct {
	Period, Quota, Shares *runtimeapi.UInt64Value // of the CPU, microseconds and shares as v1 has them
	Memory, Swap          *runtimeapi.UInt64Value // bytes; on v1 the latter is memory and swap together
}

// HugePages are the huge pages of one size.
type HugePages struct {
	Size string                  // as the kernel writes it, 2MB
	Used *runtimeapi.UInt64Value // bytes
	Peak *runtimeapi.UInt64Value // bytes, the highest usage; nil on v2, which doesn't count it
	Hits *runtimeapi.UInt64Value // how often the limit was met
}

// Disk is a filesystem.
type Disk struct {
	Device             string // what is mounted
	Bytes              uint64
	Inodes, InodesFree uint64
}

// InterfacePackets counts packets; [runtimeapi.NetworkInterfaceUsage] has bytes and errors.
type InterfacePackets struct {
	Name                                     string
	Received, ReceivedDropped, Sent, Dropped uint64
}

// MeasurePods reads the usage of the pod sandboxes named and of their containers; pods
// that have gone meanwhile are left out. Each file is read once.
func (u *statistics) MeasurePods(ctx context.Context, ids []string) []*PodMeasures {
	wait, end := newPatience(ctx)
	defer end()
	own, disk := u.ownCgroups(), measureDisk(u.paths.root)
	out := make([]*PodMeasures, len(ids))
	parallel(ctx, len(ids), func(i int) {
		s, err := u.index.pod(ids[i])
		if err != nil {
			return
		}
		more := &PodMeasures{Containers: make(map[string]Measures)}
		if more.Stats = u.podStats(wait, s, own[s.id], more); more.Stats == nil {
			return
		}
		more.Pod.Devices = u.counted.orIdle(more.Pod.Devices)
		for id, m := range more.Containers {
			m.Disk, m.Devices = disk, u.counted.orIdle(m.Devices)
			more.Containers[id] = m
		}
		out[i] = more
	})
	return compact(out)
}

// own fills in what the pod's cgroup and network tell. Of nil nothing is wanted.
func (m *PodMeasures) own(g cgroupReader, devices []netDevice) {
	if m == nil {
		return
	}
	m.Pod = g.measures()
	m.Pod.Interfaces = packets(devices)
	m.Pod.Swap = g.swap(time.Now()).GetSwapUsageBytes()
	if !g.v2 {
		m.Pod.OOMKills = nil // v1 counts those in the cgroup itself, where no process is
	}
}

// add fills in a container's measures, unless it does not run: then g has no paths.
func (m *PodMeasures) add(c *Container, g cgroupReader) {
	if m != nil && g.paths != nil {
		m.Containers[c.id] = measureContainer(g, c.status.Load().PID)
	}
}

// measureContainer reads what the cgroup and the processes tell.
func measureContainer(g cgroupReader, pid int) Measures {
	out := g.measures()
	out.Files, out.Sockets, out.Processes = g.descriptors()
	out.FileLimit = softFiles(pid)
	return out
}

func (g cgroupReader) measures() Measures {
	var out Measures
	g.cpuMeasures(&out)
	g.memoryMeasures(&out)
	g.limitMeasures(&out)
	out.Devices, out.HugePages = g.devices(), g.hugePages()
	return out
}

// of gives a value of a file that was read, nil when it has none.
func of(st keyedText, key string) *runtimeapi.UInt64Value {
	if n, ok := st.get(key); ok {
		return u64(n)
	}
	return nil
}

// nanos gives nanoseconds of microseconds that may be missing.
func nanos(micro *runtimeapi.UInt64Value) *runtimeapi.UInt64Value {
	if micro == nil {
		return nil
	}
	return u64(micro.Value * uint64(time.Microsecond))
}

func (g cgroupReader) cpuMeasures(out *Measures) {
	st := g.keyed("cpu", "cpu.stat")
	out.Periods, out.Throttled, out.Bursts = of(st, "nr_periods"), of(st, "nr_throttled"), of(st, "nr_bursts")
	if g.v2 {
		out.ThrottledTime, out.BurstTime = nanos(of(st, "throttled_usec")), nanos(of(st, "burst_usec"))
		out.UserCPU, out.SystemCPU = nanos(of(st, "user_usec")), nanos(of(st, "system_usec"))
		return
	}
	out.ThrottledTime, out.BurstTime = of(st, "throttled_time"), of(st, "burst_time")
	out.UserCPU, out.SystemCPU = g.value("cpuacct", "cpuacct.usage_user"), g.value("cpuacct", "cpuacct.usage_sys")
}

func (g cgroupReader) memoryMeasures(out *Measures) {
	st := g.keyed("memory", "memory.stat")
	for _, k := range []struct {
		into   **runtimeapi.UInt64Value
		v1, v2 string // "" is what that version does not count
	}{
		{&out.Cache, "total_cache", "file"},
		{&out.Mapped, "total_mapped_file", "file_mapped"},
		{&out.ActiveFile, "total_active_file", "active_file"},
		{&out.InactiveFile, "total_inactive_file", "inactive_file"},
		{&out.Dirty, "total_dirty", "file_dirty"},
		{&out.Writeback, "total_writeback", "file_writeback"},
		{&out.Scanned, "", "pgscan"},
		{&out.Reclaimed, "", "pgsteal"},
		{&out.FileRefaults, "total_workingset_refault_file", "workingset_refault_file"},
		{&out.AnonRefaults, "total_workingset_refault_anon", "workingset_refault_anon"},
		{&out.Faults, "pgfault", "pgfault"},
		{&out.MajorFaults, "pgmajfault", "pgmajfault"},
		{&out.Kernel, "", "kernel"},
	} {
		if g.v2 {
			*k.into = of(st, k.v2)
		} else {
			*k.into = of(st, k.v1)
		}
	}
	if g.v2 {
		events := g.keyed("", "memory.events")
		out.OOMKills, out.MemoryLimitHits = of(events, "oom_kill"), of(events, "max")
		out.HighEvents, out.MaxEvents = of(events, "high"), of(events, "max")
		out.PeakMemory, out.MemoryReserved = g.value("", "memory.peak"), g.limit("", "memory.min")
		return
	}
	out.OOMKills = of(g.keyed("memory", "memory.oom_control"), "oom_kill")
	out.MemoryLimitHits = g.value("memory", "memory.failcnt")
	out.MemoryReserved = g.limit("memory", "memory.soft_limit_in_bytes")
	out.Kernel, out.PeakMemory = g.value("memory", "memory.kmem.usage_in_bytes"), g.value("memory", "memory.max_usage_in_bytes")
}

// limit reads a file whose value may stand for none, which is 0 here: the word max, -1,
// or near the largest number of pages.
func (g cgroupReader) limit(controller, name string) *runtimeapi.UInt64Value {
	switch n := g.value(controller, name); {
	case n != nil && n.Value <= noLimit:
		return n
	case n != nil || g.file(controller, name) != "":
		return u64(0)
	}
	return nil
}

func (g cgroupReader) limitMeasures(out *Measures) {
	out.Threads, out.ThreadLimit = g.value("pids", "pids.current"), g.limit("pids", "pids.max")
	l := &out.Limits
	if !g.v2 {
		l.Period, l.Quota, l.Shares = g.value("cpu", "cpu.cfs_period_us"), g.limit("cpu", "cpu.cfs_quota_us"), g.value("cpu", "cpu.shares")
		l.Memory, l.Swap = g.limit("memory", "memory.limit_in_bytes"), g.limit("memory", "memory.memsw.limit_in_bytes")
		return
	}
	l.Memory, l.Swap = g.limit("", "memory.max"), g.limit("", "memory.swap.max")
	if f := strings.Fields(g.file("", "cpu.max")); len(f) == 2 {
		quota, _ := strconv.ParseUint(f[0], 10, 64) // 0 of the word max
		l.Quota = u64(quota)
		if period, err := strconv.ParseUint(f[1], 10, 64); err == nil {
			l.Period = u64(period)
		}
	}
	if w := g.value("", "cpu.weight"); w != nil && w.Value > 0 {
		l.Shares = u64(sharesOf(w.Value))
	}
}

// sharesOf is what cAdvisor tells of a weight of v2: the inverse of the line that KEP-2254
// draws from 2 to 262144 shares.
func sharesOf(weight uint64) uint64 { return 2 + (weight-1)*262142/9999 }

// hugePages reads the sizes that the kernel has. What the group reserved is not told.
func (g cgroupReader) hugePages() (out []HugePages) {
	dir, used := g.paths["hugetlb"], ".usage_in_bytes"
	if g.v2 {
		dir, used = g.paths[""], ".current"
	}
	if dir == "" {
		return nil
	}
	files, _ := filepath.Glob(filepath.Join(dir, "hugetlb.*"+used)) // the pattern is right
	for _, f := range files {
		size := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "hugetlb."), used)
		if strings.Contains(size, ".") {
			continue // hugetlb.2MB.rsvd…
		}
		h := HugePages{Size: size, Used: g.value("hugetlb", "hugetlb."+size+used), Peak: g.value("hugetlb", "hugetlb."+size+".max_usage_in_bytes")}
		if h.Hits = g.value("hugetlb", "hugetlb."+size+".failcnt"); g.v2 {
			h.Hits = of(g.keyed("", "hugetlb."+size+".events"), "max")
		}
		out = append(out, h)
	}
	return out
}

// measureDisk tells of the filesystem that a directory is on.
func measureDisk(dir string) *Disk {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil
	}
	out := &Disk{Bytes: st.Blocks * uint64(st.Bsize), Inodes: st.Files, InodesFree: st.Ffree} //nolint:gosec // a size
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(dir))
	if err != nil {
		return out
	}
	longest := 0
	for _, mt := range mounts {
		if len(mt.Mountpoint) >= longest { // of two at one place the later covers the other
			longest, out.Device = len(mt.Mountpoint), mt.Source
		}
	}
	return out
}

// softFiles is how many files a process may open, nil when as many as it likes.
func softFiles(pid int) (out *runtimeapi.UInt64Value) {
	const key = "Max open files"
	eachLine(fmt.Sprintf("/proc/%d/limits", pid), func(line string) bool {
		rest, ok := strings.CutPrefix(line, key)
		if f := strings.Fields(rest); ok && len(f) > 0 {
			if n, err := strconv.ParseUint(f[0], 10, 64); err == nil {
				out = u64(n)
			}
		}
		return !ok
	})
	return out
}
