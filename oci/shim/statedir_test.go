package shim

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/test/fewfiles"
)

// TestReleaseFifo: a reader that is blocked in open(2) goes on.
func TestReleaseFifo(t *testing.T) {
	d := stateDir(t.TempDir())
	if d.hasFifo("c") {
		t.Error("a container without state has a FIFO")
	}
	if err := os.Mkdir(d.of("c"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(d.fifo("c"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !d.hasFifo("c") {
		t.Error("the FIFO is not seen")
	}
	d.releaseFifo("c") // nobody waits: no error, and it does not block
	opened := make(chan error, 1)
	go func() {
		f, err := os.Open(d.fifo("c"))
		if err == nil {
			err = f.Close()
		}
		opened <- err
	}()
	for {
		d.releaseFifo("c")
		select {
		case err := <-opened:
			if err != nil {
				t.Error(err)
			}
			return
		case <-time.After(time.Millisecond): // the goroutine has not got as far as open(2)
		}
	}
}

func TestDeleteRest(t *testing.T) {
	d := stateDir(t.TempDir())
	if err := d.deleteRest("none"); err != nil {
		t.Errorf("a container that is not there: %v", err)
	}
	if err := os.Mkdir(d.of("cut"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.removeNoted("cut"); err != nil {
		t.Errorf("no cgroup was noted: %v", err)
	}
	if err := d.deleteRest("../" + "cut"); err != nil {
		t.Error(err)
	}
	if err := d.deleteRest("cut"); err != nil {
		t.Errorf("a container whose creation was cut off: %v", err)
	}
	if _, err := os.Lstat(d.of("cut")); err == nil {
		t.Error("its directory is left")
	}
}

// A container whose cgroup can't be ended, or not be found, keeps its directory, which names it.
func TestDeleteRestKeepsWhatNamesTheCgroup(t *testing.T) {
	d := stateDir(t.TempDir())
	if err := os.Mkdir(d.of("cut"), 0o700); err != nil {
		t.Fatal(err)
	}
	note := filepath.Join(d.of("cut"), cgroupName)
	if err := os.Symlink(note, note); err != nil { // can't be read, as on a faulty disk
		t.Fatal(err)
	}
	if err := d.deleteRest("cut"); err == nil {
		t.Error("no error where the name of the cgroup can't be read")
	}
	enough := fewfiles.Spare(t, 0)
	err := d.deleteRest("cut")
	if enough(); err == nil {
		t.Error("no error without descriptors")
	}
	if _, err := os.Lstat(note); err != nil {
		t.Errorf("the name of the cgroup is gone: %v", err)
	}
	link := stateDir(filepath.Join(t.TempDir(), "link"))
	if err := os.Symlink(string(link), string(link)); err != nil {
		t.Fatal(err)
	}
	if err := link.deleteRest("c"); err == nil {
		t.Error("no error where nothing is known of the directory")
	}
}

// TestMerge: an update changes what it names, and nothing else.
func TestMerge(t *testing.T) {
	shares, quota, limit, swap, pids := uint64(512), int64(20000), int64(64<<20), int64(96<<20), int64(33)
	to := &cgroups.Resources{CpuPeriod: 100000, CpusetCpus: "0-1", Memory: 1, PidsLimit: &pids}
	mergeCPU(to, &specs.LinuxCPU{Shares: &shares, Quota: &quota, Mems: "0"})
	mergeMemory(to, &specs.LinuxMemory{Limit: &limit, Swap: &swap})
	mergeRest(to, &specs.LinuxResources{Unified: map[string]string{"memory.high": "1"}})
	if to.CpuShares != shares || to.CpuWeight == 0 || to.CpuQuota != quota || to.CpusetMems != "0" {
		t.Errorf("CPU %+v, want what the update names", to)
	}
	if to.Memory != limit || to.MemorySwap != swap || to.Unified["memory.high"] != "1" {
		t.Errorf("memory %d, swap %d, unified %v", to.Memory, to.MemorySwap, to.Unified)
	}
	if to.CpuPeriod != 100000 || to.CpusetCpus != "0-1" || *to.PidsLimit != pids {
		t.Errorf("changed without being named: period %d, cpus %q, pids %d", to.CpuPeriod, to.CpusetCpus, *to.PidsLimit)
	}
	before := *to
	mergeCPU(to, nil)
	mergeMemory(to, nil)
	if to.CpuQuota != before.CpuQuota || to.Memory != before.Memory {
		t.Error("an update without CPU and memory has changed them")
	}
}
