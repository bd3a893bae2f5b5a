package sandbox

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Measures are what the CRI's metrics tell and its stats have no place for. Counts are
// since the start; nil is what this machine does not count.
type Measures struct {
	Periods, Throttled *runtimeapi.UInt64Value // of the CPU limit, and those in which it was used up
	ThrottledTime      *runtimeapi.UInt64Value // nanoseconds
	UserCPU, SystemCPU *runtimeapi.UInt64Value // nanoseconds
	OOMKills           *runtimeapi.UInt64Value // processes, the first one and others

	Cache, Mapped   *runtimeapi.UInt64Value // bytes of the page cache, and of files mapped
	Kernel          *runtimeapi.UInt64Value // bytes of the kernel's memory
	MostMemory      *runtimeapi.UInt64Value // bytes, the highest usage
	MemoryReserved  *runtimeapi.UInt64Value // bytes that are taken back last, 0 for none
	MemoryLimitHits *runtimeapi.UInt64Value // how often the limit was met
	Threads         *runtimeapi.UInt64Value
	MostThreads     *runtimeapi.UInt64Value // the limit, 0 for none
	Processes       uint64
	Files, Sockets  uint64                  // open ones, see maxDescriptors
	MostFiles       *runtimeapi.UInt64Value // the first process's soft limit; nil for none
	Devices         []DeviceIO
	HugePages       []HugePages
	Disk            *Disk // of writable layers
	Interfaces      []InterfacePackets
}

// DeviceIO is what was read from and written to a block device.
type DeviceIO struct {
	Device                  string // /dev/vda; "" when the kernel has no name for it
	Major, Minor            uint64
	ReadBytes, WrittenBytes uint64
	Reads, Writes           uint64
}

// HugePages are the huge pages of one size.
type HugePages struct {
	Size string                  // as the kernel writes it, 2MB
	Used *runtimeapi.UInt64Value // bytes
	Most *runtimeapi.UInt64Value // bytes, the highest usage; nil on v2, which doesn't count it
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

// Measures of a container that does not run are empty.
func (u *statistics) Measures(id string) (Measures, error) {
	c, err := u.index.container(id)
	if err != nil {
		return Measures{}, err
	}
	st := c.status.Load()
	if st == nil || st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return Measures{}, nil
	}
	out := cgroupReader{v2: u.host.CgroupV2, paths: st.Cgroups}.measures()
	out.MostFiles = softFiles(st.PID)
	out.Disk = measureDisk(u.paths.root)
	return out, nil
}

// PodMeasures of a pod are its network's.
func (u *statistics) PodMeasures(id string) (Measures, error) {
	s, err := u.index.pod(id)
	if err != nil {
		return Measures{}, err
	}
	st := s.status.Load()
	if st == nil || st.PID == 0 || st.NetNS == "" {
		return Measures{}, nil
	}
	return Measures{Interfaces: readPackets(st.PID)}, nil
}

func (g cgroupReader) measures() Measures {
	var out Measures
	g.cpuMeasures(&out)
	g.memoryMeasures(&out)
	g.pidMeasures(&out)
	out.Devices, out.HugePages = g.devices(), g.hugePages()
	return out
}

// of gives a value of a file that was read, nil when it has none.
func of(st map[string]uint64, key string) *runtimeapi.UInt64Value {
	if n, ok := st[key]; ok {
		return u64(n)
	}
	return nil
}

// scaled multiplies a value that may be missing.
func scaled(v *runtimeapi.UInt64Value, by uint64) *runtimeapi.UInt64Value {
	if v == nil {
		return nil
	}
	return u64(v.Value * by)
}

func (g cgroupReader) cpuMeasures(out *Measures) {
	st := g.keyed("cpu", "cpu.stat")
	out.Periods, out.Throttled = of(st, "nr_periods"), of(st, "nr_throttled")
	if g.v2 {
		out.ThrottledTime = scaled(of(st, "throttled_usec"), 1000)
		out.UserCPU, out.SystemCPU = scaled(of(st, "user_usec"), 1000), scaled(of(st, "system_usec"), 1000)
		return
	}
	out.ThrottledTime = of(st, "throttled_time")
	out.UserCPU, out.SystemCPU = g.value("cpuacct", "cpuacct.usage_user"), g.value("cpuacct", "cpuacct.usage_sys")
}

func (g cgroupReader) memoryMeasures(out *Measures) {
	st := g.keyed("memory", "memory.stat")
	if g.v2 {
		events := g.keyed("", "memory.events")
		out.OOMKills, out.MemoryLimitHits = of(events, "oom_kill"), of(events, "max")
		out.Cache, out.Mapped, out.Kernel = of(st, "file"), of(st, "file_mapped"), of(st, "kernel")
		out.MostMemory, out.MemoryReserved = g.value("", "memory.peak"), g.value("", "memory.low")
		return
	}
	out.OOMKills = of(g.keyed("memory", "memory.oom_control"), "oom_kill")
	out.MemoryLimitHits = g.value("memory", "memory.failcnt")
	out.Cache, out.Mapped = of(st, "total_cache"), of(st, "total_mapped_file")
	if out.MemoryReserved = g.value("memory", "memory.soft_limit_in_bytes"); out.MemoryReserved.GetValue() > noLimit {
		out.MemoryReserved = u64(0)
	}
	out.Kernel, out.MostMemory = g.value("memory", "memory.kmem.usage_in_bytes"), g.value("memory", "memory.max_usage_in_bytes")
}

func (g cgroupReader) pidMeasures(out *Measures) {
	out.Threads = g.value("pids", "pids.current")
	if out.MostThreads = g.value("pids", "pids.max"); out.MostThreads == nil && out.Threads != nil {
		out.MostThreads = u64(0) // the word max
	}
	out.Files, out.Sockets, out.Processes = g.descriptors()
}

// devices reads the bytes and operations of each block device. On v1 the scheduler BFQ
// counts for the devices that it has, and the throttling layer for all.
func (g cgroupReader) devices() (out []DeviceIO) {
	at := make(map[string]int)
	device := func(number string) *DeviceIO {
		major, minor, _ := strings.Cut(number, ":")
		a, err1 := strconv.ParseUint(major, 10, 32)
		b, err2 := strconv.ParseUint(minor, 10, 32)
		if err1 != nil || err2 != nil {
			return nil
		}
		if _, ok := at[number]; !ok {
			at[number] = len(out)
			out = append(out, DeviceIO{Device: deviceName(number), Major: a, Minor: b})
		}
		return &out[at[number]]
	}
	if g.v2 {
		for line := range strings.Lines(g.file("", "io.stat")) {
			number, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			if d := device(number); d != nil {
				d.addPairs(rest)
			}
		}
		return out
	}
	for name, bytes := range map[string]bool{"io_service_bytes_recursive": true, "io_serviced_recursive": false} {
		for line := range strings.Lines(g.blkio(name)) {
			f := strings.Fields(line)
			if len(f) != 3 {
				continue // the total
			}
			n, err := strconv.ParseUint(f[2], 10, 64)
			if d := device(f[0]); d != nil && err == nil {
				d.add(f[1], bytes, n)
			}
		}
	}
	return out
}

// blkio reads a file of the first layer that counted a device.
func (g cgroupReader) blkio(name string) string {
	if text := g.file("blkio", "blkio.bfq."+name); strings.Contains(text, ":") {
		return text
	}
	return g.file("blkio", "blkio.throttle."+name)
}

// add takes a line of v1 in.
func (d *DeviceIO) add(operation string, bytes bool, n uint64) {
	switch {
	case operation == "Read" && bytes:
		d.ReadBytes = n
	case operation == "Write" && bytes:
		d.WrittenBytes = n
	case operation == "Read":
		d.Reads = n
	case operation == "Write":
		d.Writes = n
	}
}

// addPairs takes the pairs of a line of v2 in.
func (d *DeviceIO) addPairs(pairs string) {
	for pair := range strings.FieldsSeq(pairs) {
		key, val, _ := strings.Cut(pair, "=")
		n, err := strconv.ParseUint(val, 10, 64)
		if err != nil {
			continue
		}
		switch key {
		case "rbytes":
			d.ReadBytes = n
		case "wbytes":
			d.WrittenBytes = n
		case "rios":
			d.Reads = n
		case "wios":
			d.Writes = n
		}
	}
}

// deviceName finds the file in /dev of a block device's number, major:minor.
func deviceName(number string) (name string) {
	eachLine(filepath.Join("/sys/dev/block", number, "uevent"), func(line string) bool {
		var ok bool
		if name, ok = strings.CutPrefix(line, "DEVNAME="); ok {
			name = "/dev/" + name
		} else {
			name = ""
		}
		return !ok
	})
	return name
}

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
		out = append(out, HugePages{
			Size: size, Used: g.value("hugetlb", "hugetlb."+size+used), Most: g.value("hugetlb", "hugetlb."+size+".max_usage_in_bytes"),
		})
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
