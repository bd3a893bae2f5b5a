package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
)

// Counted is what the cgroups of this host count of what not all hosts do. It does not
// change while berth runs, as the CRI wants it of ListMetricDescriptors.
type Counted struct {
	Cgroup2   bool // what only version 2 counts: memory.events, and reclaim in memory.stat
	HugePages bool
	HugePeaks bool // the highest usage of huge pages, which version 2 does not count
	// Idle is a block device that nothing was done with, with zeros for all that is counted
	// of a device; nil: no block I/O is counted.
	Idle *DeviceIO
}

// Counted tells what this host counts.
func (u *statistics) Counted() Counted { return u.counted }

// countedOn asks the root cgroup, which counts the block I/O of the whole host. layers is
// the directory of the writable layers.
func countedOn(h oci.Host, layers string) Counted {
	return Counted{
		Cgroup2: h.CgroupV2, HugePages: h.Controllers["hugetlb"], HugePeaks: h.Controllers["hugetlb"] && !h.CgroupV2,
		Idle: idleDevice(podCgroup(h, "/").devices(), diskOf(layers)),
	}
}

// idleDevice gives the device with a number, or the first one if that is not counted.
func idleDevice(counted []DeviceIO, number string) *DeviceIO {
	if len(counted) == 0 {
		return nil
	}
	found := counted[0]
	for _, d := range counted {
		if fmt.Sprintf("%d:%d", d.Major, d.Minor) == number {
			found = d
		}
	}
	idle := DeviceIO{Device: found.Device, Major: found.Major, Minor: found.Minor}
	for _, d := range counted { // a counter that one of them has may come up at any
		for _, f := range []struct{ has, into **runtimeapi.UInt64Value }{
			{&d.ReadsMerged, &idle.ReadsMerged}, {&d.WritesMerged, &idle.WritesMerged},
			{&d.ReadTime, &idle.ReadTime}, {&d.WriteTime, &idle.WriteTime}, {&d.Time, &idle.Time}, {&d.Queued, &idle.Queued},
			{&d.CostUsage, &idle.CostUsage}, {&d.CostWait, &idle.CostWait}, {&d.CostInDebt, &idle.CostInDebt}, {&d.CostInDelay, &idle.CostInDelay},
		} {
			if *f.has != nil {
				*f.into = u64(0)
			}
		}
	}
	return &idle
}

// diskOf gives the number, major:minor, of the disk that a directory is on. Cgroups count by
// disk and not by partition; the directory of a partition in sysfs is in that of its disk.
func diskOf(dir string) string {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return ""
	}
	number := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	entry, err := filepath.EvalSymlinks(filepath.Join("/sys/dev/block", number))
	if err != nil {
		return number // of no block device, as a tmpfs
	}
	if unix.Access(filepath.Join(entry, "partition"), unix.F_OK) != nil {
		return number
	}
	disk, err := os.ReadFile(filepath.Join(filepath.Dir(entry), "dev"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(disk))
}

// orIdle gives the devices of a cgroup. One that has done no block I/O has none in the
// kernel's files: it gets the idle one, so that its series are there from the start.
func (c Counted) orIdle(devices []DeviceIO) []DeviceIO {
	if len(devices) > 0 || c.Idle == nil {
		return devices
	}
	return []DeviceIO{*c.Idle}
}
