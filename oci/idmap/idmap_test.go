package idmap_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"berth/oci/idmap"
)

// A pod's root is the host's user 100000, and its other users follow.
func ExampleSysProc() {
	maps := []idmap.Map{{ContainerID: 0, HostID: 100000, Size: 65536}}
	for _, m := range idmap.SysProc(maps) {
		fmt.Println(m.ContainerID, m.HostID, m.Size)
	}
	// Output: 0 100000 65536
}

// TestWireForm: daemon and shim can be of different versions, so the names of the fields
// must stay.
func TestWireForm(t *testing.T) {
	want := idmap.Map{ContainerID: 1, HostID: 2, Size: 3}
	const wire = `{"container_id":1,"host_id":2,"size":3}`
	if data, err := json.Marshal(want); err != nil || string(data) != wire {
		t.Errorf("Marshal(%+v) = %s, %v, want %s", want, data, err, wire)
	}
	var got idmap.Map
	if err := json.Unmarshal([]byte(`{"container_id":1,"host_id":2,"size":3,"later":4}`), &got); err != nil || got != want {
		t.Errorf("a map with a field of a later version is read as %+v, %v, want %+v", got, err, want)
	}
}

// TestSysProcWithoutMaps: an empty slice would make os/exec ask for a user namespace.
func TestSysProcWithoutMaps(t *testing.T) {
	if got := idmap.SysProc([]idmap.Map{}); got != nil {
		t.Errorf("SysProc of no maps = %v, want nil", got)
	}
}

// TestKernelTakesMaps starts a process with the converted maps. The IDs are the largest that
// a map can have, so they must come through the conversion to int unchanged.
func TestKernelTakesMaps(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may map IDs of others")
	}
	maps := []idmap.Map{{ContainerID: 0, HostID: 4294901760, Size: 1}, {ContainerID: 65535, HostID: 4294967294, Size: 1}}
	c := exec.Command("cat", "/proc/self/uid_map")
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: idmap.SysProc(maps), GidMappings: idmap.SysProc(maps),
	}
	out, err := c.CombinedOutput()
	want := []string{"0", "4294901760", "1", "65535", "4294967294", "1"}
	if got := strings.Fields(string(out)); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("uid_map = %v, %v, want %v", got, err, want)
	}
}
