package sandbox

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMeasures(t *testing.T) {
	pid := strconv.Itoa(os.Getpid()) + "\n"
	v1 := cgroupFiles(t, map[string]string{
		"cpu.stat": "nr_periods 30\nnr_throttled 20\nthrottled_time 5000\nnr_bursts 4\nburst_time 6000\n", "cpuacct.usage_user": "7000\n", "cpuacct.usage_sys": "3000\n",
		"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", "memory.failcnt": "6\n",
		"memory.stat": "cache 1\npgfault 8\npgmajfault 9\ntotal_cache 100\ntotal_mapped_file 50\ntotal_pgfault 80\n" +
			"total_active_file 11\ntotal_inactive_file 12\ntotal_dirty 13\ntotal_writeback 14\ntotal_workingset_refault_file 15\ntotal_workingset_refault_anon 16\n",
		"memory.kmem.usage_in_bytes": "40\n",
		"memory.max_usage_in_bytes":  "900\n", "memory.soft_limit_in_bytes": "9223372036854771712\n",
		"memory.limit_in_bytes": "1000\n", "memory.memsw.limit_in_bytes": "9223372036854771712\n",
		"cpu.cfs_period_us": "100000\n", "cpu.cfs_quota_us": "-1\n", "cpu.shares": "1024\n",
		"pids.current": "9\n", "pids.max": "max\n", "cgroup.procs": pid,
		"blkio.bfq.io_service_bytes_recursive":      "Total 0\n",
		"blkio.throttle.io_service_bytes_recursive": "9999:7 Read 4096\n9999:7 Write 8192\n9999:7 Sync 1\n9999:7 Total 12288\nTotal 12288\n",
		"blkio.throttle.io_serviced_recursive":      "9999:7 Read 1\n9999:7 Write 2\nTotal 3\n",
		"blkio.bfq.io_merged_recursive":             "9999:7 Read 3\n9999:7 Write 4\nTotal 7\n",
		"blkio.bfq.io_service_time_recursive":       "9999:7 Read 50\n9999:7 Write 60\n9999:7 Total 110\nTotal 110\n",
		"blkio.bfq.io_queued_recursive":             "9999:7 Read 1\n9999:7 Total 2\nTotal 2\n",
		"hugetlb.2MB.failcnt":                       "5\n",
		"hugetlb.2MB.usage_in_bytes":                "2097152\n", "hugetlb.2MB.max_usage_in_bytes": "4194304\n", "hugetlb.2MB.rsvd.usage_in_bytes": "1\n",
	})
	v2 := cgroupFiles(t, map[string]string{
		"cpu.stat":      "usage_usec 10\nuser_usec 7\nsystem_usec 3\nnr_periods 30\nnr_throttled 20\nthrottled_usec 5\nnr_bursts 4\nburst_usec 6\n",
		"memory.events": "low 0\nhigh 17\nmax 6\noom 3\noom_kill 2\noom_group_kill 0\n", "memory.stat": "file 100\nfile_mapped 50\nkernel 40\npgfault 8\npgmajfault 9\n" +
			"active_file 11\ninactive_file 12\nfile_dirty 13\nfile_writeback 14\nworkingset_refault_file 15\nworkingset_refault_anon 16\npgscan 18\npgsteal 19\n",
		"memory.max": "1000\n", "memory.swap.max": "max\n", "cpu.max": "max 100000\n", "cpu.weight": "39\n", "hugetlb.2MB.events": "max 5\n",
		"memory.peak": "900\n", "memory.low": "5\n", "memory.min": "0\n", "pids.current": "9\n", "pids.max": "max\n", "cgroup.procs": pid,
		"io.stat": "9999:7 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0 cost.usage=1 cost.wait=2 cost.indebt=3 cost.indelay=4\n", "hugetlb.2MB.current": "2097152\n", "hugetlb.2MB.rsvd.current": "1\n",
	})
	all := map[string]string{"cpu": v1, "cpuacct": v1, "memory": v1, "pids": v1, "blkio": v1, "hugetlb": v1}
	for _, g := range []cgroupReader{{paths: all}, {v2: true, paths: map[string]string{"": v2}}} {
		m := measureContainer(g, os.Getpid())
		for name, c := range map[string]struct {
			got  *runtimeapi.UInt64Value
			want uint64
		}{
			"periods": {m.Periods, 30}, "throttled": {m.Throttled, 20}, "throttled time": {m.ThrottledTime, 5000},
			"user": {m.UserCPU, 7000}, "system": {m.SystemCPU, 3000}, "kills": {m.OOMKills, 2}, "limit hits": {m.MemoryLimitHits, 6},
			"cache": {m.Cache, 100}, "mapped": {m.Mapped, 50}, "kernel": {m.Kernel, 40}, "most": {m.PeakMemory, 900},
			"reserved": {m.MemoryReserved, 0}, "threads": {m.Threads, 9}, "threads at most": {m.ThreadLimit, 0}, "processes": {u64(m.Processes), 1},
			"bursts": {m.Bursts, 4}, "burst time": {m.BurstTime, 6000}, "own faults": {m.Faults, 8}, "own major faults": {m.MajorFaults, 9},
			"active": {m.ActiveFile, 11}, "inactive": {m.InactiveFile, 12}, "dirty": {m.Dirty, 13}, "writeback": {m.Writeback, 14},
			"file refaults": {m.FileRefaults, 15}, "anon refaults": {m.AnonRefaults, 16},
			"period": {m.Limits.Period, 100_000}, "quota": {m.Limits.Quota, 0}, "memory": {m.Limits.Memory, 1000}, "swap": {m.Limits.Swap, 0},
		} {
			if c.got == nil || c.got.Value != c.want {
				t.Errorf("v2 %t: %s is %v, want %d", g.v2, name, c.got, c.want)
			}
		}
		if got := []*runtimeapi.UInt64Value{m.HighEvents, m.MaxEvents, m.Scanned, m.Reclaimed}; g.v2 && !slices.Equal(numbers(got...), []int64{17, 6, 18, 19}) ||
			!g.v2 && !slices.Equal(numbers(got...), []int64{-1, -1, -1, -1}) {
			t.Errorf("v2 %t: events and reclaim %v", g.v2, got)
		}
		if n := m.Limits.Shares.GetValue(); n < 990 || n > 1024 {
			t.Errorf("v2 %t: %d shares", g.v2, n)
		}
		if len(m.Devices) != 1 {
			t.Fatalf("v2 %t: devices %v", g.v2, m.Devices)
		}
		d := m.Devices[0]
		if d.Major != 9999 || d.Minor != 7 || d.ReadBytes != 4096 || d.WrittenBytes != 8192 || d.Reads != 1 || d.Writes != 2 {
			t.Errorf("v2 %t: device %+v", g.v2, d)
		}
		rest := numbers(d.ReadsMerged, d.WritesMerged, d.ReadTime, d.WriteTime, d.Time, d.Queued, d.CostUsage, d.CostWait, d.CostInDebt, d.CostInDelay)
		want := []int64{3, 4, 50, 60, 110, 2, -1, -1, -1, -1}
		if g.v2 {
			want = []int64{-1, -1, -1, -1, -1, -1, 1000, 2000, 3000, 4000}
		}
		if !slices.Equal(rest, want) {
			t.Errorf("v2 %t: device %v, want %v", g.v2, rest, want)
		}
		if len(m.HugePages) != 1 || m.HugePages[0].Size != "2MB" || m.HugePages[0].Used.Value != 2<<20 || (m.HugePages[0].Peak == nil) != g.v2 || m.HugePages[0].Hits.GetValue() != 5 {
			t.Errorf("v2 %t: huge pages %v", g.v2, m.HugePages)
		}
	}
	if m := measureContainer(cgroupReader{}, -1); m.Threads != nil || m.Cache != nil || m.Devices != nil || m.Processes != 0 {
		t.Errorf("of no cgroup: %+v", m)
	}
}

// numbers are the values, -1 where there is none.
func numbers(values ...*runtimeapi.UInt64Value) (out []int64) {
	for _, v := range values {
		if v == nil {
			out = append(out, -1)
		} else {
			out = append(out, int64(v.Value))
		}
	}
	return out
}

// What one reader tells is of one moment, though the kernel counts on.
func TestReaderReadsOnce(t *testing.T) {
	dir := cgroupFiles(t, map[string]string{"pids.current": "1\n"})
	g := reader(true, map[string]string{"": dir})
	first := g.value("pids", "pids.current")
	if err := os.WriteFile(filepath.Join(dir, "pids.current"), []byte("2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again := g.value("pids", "pids.current"); first.GetValue() != 1 || again.GetValue() != 1 {
		t.Errorf("read %v, then %v", first, again)
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

// Of 100,000 processes, each is counted, and the files of only so many are looked at.
func TestDescriptorsOfManyProcesses(t *testing.T) {
	const many = 100_000
	pids := strings.Repeat(strconv.Itoa(os.Getpid())+"\n", many)
	g := cgroupReader{v2: true, paths: map[string]string{"": cgroupFiles(t, map[string]string{"cgroup.procs": pids})}}
	one, _, _ := openFiles("/proc/self/fd", maxDescriptors)
	files, sockets, processes := g.descriptors()
	if processes != many || files < one || files > maxDescriptors+2*one || sockets > files {
		t.Errorf("%d processes, %d files, %d sockets; this process has %d files", processes, files, sockets, one)
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
