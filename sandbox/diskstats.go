package sandbox

import (
	"path/filepath"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// DeviceIO is what a cgroup and those below it did with a block device. What only some
// kernels count is nil elsewhere.
type DeviceIO struct {
	Device                  string // /dev/vda; "" when the kernel has no name for it
	Major, Minor            uint64
	ReadBytes, WrittenBytes uint64
	Reads, Writes           uint64

	// The scheduler BFQ counts these on v1, in a kernel with CONFIG_BFQ_CGROUP_DEBUG.
	ReadsMerged, WritesMerged *runtimeapi.UInt64Value
	ReadTime, WriteTime, Time *runtimeapi.UInt64Value // nanoseconds of service; Time is of all operations
	Queued                    *runtimeapi.UInt64Value // operations in the queue now

	// The controller iocost of v2 counts these, where it is switched on; nanoseconds.
	CostUsage, CostWait, CostInDebt, CostInDelay *runtimeapi.UInt64Value
}

// devicesV1 are the files of v1 by what they count. BFQ counts for the devices that it
// schedules, the throttling layer for all, but only bytes and operations.
var devicesV1 = []struct {
	name string
	add  func(d *DeviceIO, operation string, n uint64)
}{
	{"io_service_bytes_recursive", (*DeviceIO).addBytes},
	{"io_serviced_recursive", (*DeviceIO).addOperations},
	{"io_merged_recursive", (*DeviceIO).addMerged},
	{"io_service_time_recursive", (*DeviceIO).addTime},
	{"io_queued_recursive", (*DeviceIO).addQueued},
}

// devices reads what was done with each block device.
func (g cgroupReader) devices() []DeviceIO {
	found := deviceList{at: make(map[string]int)}
	if g.v2 {
		for line := range strings.Lines(g.file("", "io.stat")) {
			number, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			if d := found.device(number); d != nil {
				d.addPairs(rest)
			}
		}
		return found.list
	}
	for _, f := range devicesV1 {
		for line := range strings.Lines(g.blkio(f.name)) {
			w := strings.Fields(line)
			if len(w) != 3 {
				continue // the total
			}
			n, err := strconv.ParseUint(w[2], 10, 64)
			if d := found.device(w[0]); d != nil && err == nil {
				f.add(d, w[1], n)
			}
		}
	}
	return found.list
}

// deviceList has each device once, in the order they were found.
type deviceList struct {
	list []DeviceIO
	at   map[string]int
}

// device gives the one with a number, major:minor; nil when it is none.
func (l *deviceList) device(number string) *DeviceIO {
	major, minor, _ := strings.Cut(number, ":")
	a, err1 := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	if err1 != nil || err2 != nil {
		return nil
	}
	if _, ok := l.at[number]; !ok {
		l.at[number] = len(l.list)
		l.list = append(l.list, DeviceIO{Device: deviceName(number), Major: a, Minor: b})
	}
	return &l.list[l.at[number]]
}

// blkio reads a file of the first layer that counted a device.
func (g cgroupReader) blkio(name string) string {
	if text := g.file("blkio", "blkio.bfq."+name); strings.Contains(text, ":") {
		return text
	}
	return g.file("blkio", "blkio.throttle."+name)
}

func (d *DeviceIO) addBytes(operation string, n uint64) {
	switch operation {
	case "Read":
		d.ReadBytes = n
	case "Write":
		d.WrittenBytes = n
	}
}

func (d *DeviceIO) addOperations(operation string, n uint64) {
	switch operation {
	case "Read":
		d.Reads = n
	case "Write":
		d.Writes = n
	}
}

func (d *DeviceIO) addMerged(operation string, n uint64) {
	switch operation {
	case "Read":
		d.ReadsMerged = u64(n)
	case "Write":
		d.WritesMerged = u64(n)
	}
}

func (d *DeviceIO) addTime(operation string, n uint64) {
	switch operation {
	case "Read":
		d.ReadTime = u64(n)
	case "Write":
		d.WriteTime = u64(n)
	case "Total":
		d.Time = u64(n)
	}
}

func (d *DeviceIO) addQueued(operation string, n uint64) {
	if operation == "Total" {
		d.Queued = u64(n)
	}
}

// addPairs takes the pairs of a line of v2 in (the kernel's cgroup-v2.rst, "io.stat").
func (d *DeviceIO) addPairs(pairs string) {
	got := keyedText(strings.NewReplacer(" ", "\n", "=", " ").Replace(pairs))
	d.ReadBytes, d.WrittenBytes, d.Reads, d.Writes = got.at("rbytes"), got.at("wbytes"), got.at("rios"), got.at("wios")
	d.CostUsage, d.CostWait = nanos(of(got, "cost.usage")), nanos(of(got, "cost.wait"))
	d.CostInDebt, d.CostInDelay = nanos(of(got, "cost.indebt")), nanos(of(got, "cost.indelay"))
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
