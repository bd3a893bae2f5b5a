package sandbox

import (
	"net"
	"os"
	"strconv"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMeasures(t *testing.T) {
	pid := strconv.Itoa(os.Getpid()) + "\n"
	v1 := cgroupFiles(t, map[string]string{
		"cpu.stat": "nr_periods 30\nnr_throttled 20\nthrottled_time 5000\n", "cpuacct.usage_user": "7000\n", "cpuacct.usage_sys": "3000\n",
		"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", "memory.failcnt": "6\n",
		"memory.stat": "cache 1\ntotal_cache 100\ntotal_mapped_file 50\n", "memory.kmem.usage_in_bytes": "40\n",
		"memory.max_usage_in_bytes": "900\n", "memory.soft_limit_in_bytes": "9223372036854771712\n",
		"pids.current": "9\n", "pids.max": "max\n", "cgroup.procs": pid,
		"blkio.bfq.io_service_bytes_recursive":      "Total 0\n",
		"blkio.throttle.io_service_bytes_recursive": "9999:7 Read 4096\n9999:7 Write 8192\n9999:7 Sync 1\n9999:7 Total 12288\nTotal 12288\n",
		"blkio.throttle.io_serviced_recursive":      "9999:7 Read 1\n9999:7 Write 2\nTotal 3\n",
		"hugetlb.2MB.usage_in_bytes":                "2097152\n", "hugetlb.2MB.max_usage_in_bytes": "4194304\n", "hugetlb.2MB.rsvd.usage_in_bytes": "1\n",
	})
	v2 := cgroupFiles(t, map[string]string{
		"cpu.stat":      "usage_usec 10\nuser_usec 7\nsystem_usec 3\nnr_periods 30\nnr_throttled 20\nthrottled_usec 5\n",
		"memory.events": "low 0\nhigh 0\nmax 6\noom 3\noom_kill 2\noom_group_kill 0\n", "memory.stat": "file 100\nfile_mapped 50\nkernel 40\n",
		"memory.peak": "900\n", "memory.low": "0\n", "pids.current": "9\n", "pids.max": "max\n", "cgroup.procs": pid,
		"io.stat": "9999:7 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n", "hugetlb.2MB.current": "2097152\n", "hugetlb.2MB.rsvd.current": "1\n",
	})
	all := map[string]string{"cpu": v1, "cpuacct": v1, "memory": v1, "pids": v1, "blkio": v1, "hugetlb": v1}
	for _, g := range []cgroupReader{{paths: all}, {v2: true, paths: map[string]string{"": v2}}} {
		m := g.measures()
		for name, c := range map[string]struct {
			got  *runtimeapi.UInt64Value
			want uint64
		}{
			"periods": {m.Periods, 30}, "throttled": {m.Throttled, 20}, "throttled time": {m.ThrottledTime, 5000},
			"user": {m.UserCPU, 7000}, "system": {m.SystemCPU, 3000}, "kills": {m.OOMKills, 2}, "limit hits": {m.MemoryLimitHits, 6},
			"cache": {m.Cache, 100}, "mapped": {m.Mapped, 50}, "kernel": {m.Kernel, 40}, "most": {m.MostMemory, 900},
			"reserved": {m.MemoryReserved, 0}, "threads": {m.Threads, 9}, "threads at most": {m.MostThreads, 0}, "processes": {u64(m.Processes), 1},
		} {
			if c.got == nil || c.got.Value != c.want {
				t.Errorf("v2 %t: %s is %v, want %d", g.v2, name, c.got, c.want)
			}
		}
		if want := (DeviceIO{Major: 9999, Minor: 7, ReadBytes: 4096, WrittenBytes: 8192, Reads: 1, Writes: 2}); len(m.Devices) != 1 || m.Devices[0] != want {
			t.Errorf("v2 %t: devices %v, want %v", g.v2, m.Devices, want)
		}
		if len(m.HugePages) != 1 || m.HugePages[0].Size != "2MB" || m.HugePages[0].Used.Value != 2<<20 || (m.HugePages[0].Most == nil) != g.v2 {
			t.Errorf("v2 %t: huge pages %v", g.v2, m.HugePages)
		}
	}
	if m := (cgroupReader{}).measures(); m.Threads != nil || m.Cache != nil || m.Devices != nil || m.Processes != 0 {
		t.Errorf("of no cgroup: %+v", m)
	}
}

func TestDescriptors(t *testing.T) {
	g := cgroupReader{v2: true, paths: map[string]string{"": cgroupFiles(t, map[string]string{"cgroup.procs": strconv.Itoa(os.Getpid()) + "\n999999999\n"})}}
	files, sockets, _ := g.descriptors()
	for range 3 {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The first listener may bring descriptors of Go's own poller.
	files2, sockets2, processes := g.descriptors()
	if sockets2 != sockets+3 || files2 < files+4 || files2 > files+8 || processes != 2 {
		t.Errorf("%d files, %d sockets; before %d and %d; %d processes", files2, sockets2, files, sockets, processes)
	}
}

// A program with more open files than are looked at makes the count neither long nor wrong.
func TestManyDescriptors(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if files, sockets, looked := openFiles("/proc/self/fd", 2); looked > 3 || sockets > 2 || files < 2 {
		t.Errorf("%d files, %d sockets, %d looked at", files, sockets, looked)
	}
}

func TestMeasureDisk(t *testing.T) {
	d := measureDisk(t.TempDir())
	if d == nil || d.Device == "" || d.Bytes == 0 {
		t.Errorf("the filesystem of a directory: %+v", d)
	}
	if d := measureDisk("/nonexistent"); d != nil {
		t.Errorf("of none: %+v", d)
	}
	if n := softFiles(os.Getpid()); n == nil || n.Value == 0 {
		t.Errorf("open files: %v", n)
	}
}
