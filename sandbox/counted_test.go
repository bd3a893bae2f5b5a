package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestIdleDevice(t *testing.T) {
	counted := []DeviceIO{
		{Device: "/dev/sda", Major: 8, Reads: 5},
		{Device: "/dev/vda", Major: 254, ReadBytes: 512, CostUsage: u64(7)},
	}
	if d := idleDevice(nil, "254:0"); d != nil {
		t.Errorf("nothing is counted: %+v", d)
	}
	for number, want := range map[string]string{"254:0": "/dev/vda", "0:31": "/dev/sda"} {
		d := idleDevice(counted, number)
		if d == nil || d.Device != want || d.Reads != 0 || d.ReadBytes != 0 || d.ReadTime != nil {
			t.Errorf("%s: %+v", number, d)
		}
	}
	if d := idleDevice(counted, "254:0"); d.CostUsage == nil || d.CostUsage.Value != 0 || counted[1].CostUsage.Value != 7 {
		t.Errorf("the cost is %v", d.CostUsage)
	}
	c := Counted{Idle: idleDevice(counted, "254:0")}
	if got := c.orIdle(nil); len(got) != 1 || got[0].Device != "/dev/vda" {
		t.Errorf("a cgroup without I/O: %+v", got)
	}
	if got := c.orIdle(counted[:1]); len(got) != 1 || got[0].Reads != 5 {
		t.Errorf("a cgroup with I/O: %+v", got)
	}
	if got := (Counted{}).orIdle(nil); got != nil {
		t.Errorf("a host that does not count: %+v", got)
	}
}

// TestDiskOf compares with sysfs: of a partition it is the disk.
func TestDiskOf(t *testing.T) {
	if d := diskOf("/nonexistent"); d != "" {
		t.Errorf("a missing directory is on %q", d)
	}
	if d := diskOf("/proc"); !strings.HasPrefix(d, "0:") {
		t.Errorf("procfs is on %q", d)
	}
	number := diskOf("/")
	if strings.HasPrefix(number, "0:") {
		t.Skip("/ is not on a block device")
	}
	if _, err := os.Stat(filepath.Join("/sys/dev/block", number, "queue")); err != nil {
		t.Errorf("/ is on %s, which is no disk: %v", number, err)
	}
}
