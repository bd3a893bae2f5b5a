package shim

import (
	"slices"
	"sync"
	"testing"

	"github.com/opencontainers/runc/libcontainer/configs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func deviceSpec(host uint32) *specs.Spec {
	s := &specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "/"}, Process: &specs.Process{Args: []string{"true"}, Cwd: "/"},
		Linux: &specs.Linux{CgroupsPath: "/berth-test", Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}}},
	}
	if host != 0 {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		line := []specs.LinuxIDMapping{{ContainerID: 0, HostID: host, Size: 65536}}
		s.Linux.UIDMappings, s.Linux.GIDMappings = line, line
	}
	return s
}

// TestAttackDeviceOwners makes configurations of pods with and without a user
// namespace at once and wants each to have devices of its own root.
func TestAttackDeviceOwners(t *testing.T) {
	var all sync.WaitGroup
	for i := range 200 {
		host := uint32(i%2) * uint32(100000+i*65536)
		all.Go(func() {
			config, err := libcontainerConfig("id", deviceSpec(host), false)
			if err != nil {
				t.Error(err)
				return
			}
			if len(config.Devices) == 0 || len(config.Cgroups.Resources.Devices) == 0 {
				t.Error("it has no devices")
			}
			for _, d := range config.Devices {
				if d.Uid != host || d.Gid != host {
					t.Errorf("%s belongs to %d:%d, root is %d", d.Path, d.Uid, d.Gid, host)
				}
			}
		})
	}
	all.Wait()
}

// TestAttackLockedMemory locks more memory than a container may: libcontainer lifts the
// limit of the whole shim as it loads the first device filter of cgroup v2, and
// containers made later inherited that.
func TestAttackLockedMemory(t *testing.T) {
	before := unix.Rlimit{}
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &before); err != nil {
		t.Fatal(err)
	}
	changed := unix.Rlimit{Cur: before.Cur / 2, Max: before.Max} // growing needs CAP_SYS_RESOURCE
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &changed); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &before); err != nil {
			t.Error(err)
		}
	}()
	own := configs.Rlimit{Type: unix.RLIMIT_MEMLOCK, Soft: before.Cur, Hard: before.Max}
	said := configs.Rlimit{Type: unix.RLIMIT_MEMLOCK, Soft: 1, Hard: 2}
	for _, c := range []struct {
		limits []specs.POSIXRlimit
		want   configs.Rlimit
	}{
		{nil, own},
		{[]specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 1, Hard: 1}}, own},
		{[]specs.POSIXRlimit{{Type: "RLIMIT_MEMLOCK", Soft: 1, Hard: 2}}, said},
	} {
		p, err := libcontainerProcess(&specs.Process{Args: []string{"true"}, Rlimits: c.limits})
		if err != nil {
			t.Fatal(err)
		}
		var got []configs.Rlimit
		for _, l := range p.Rlimits {
			if l.Type == unix.RLIMIT_MEMLOCK {
				got = append(got, l)
			}
		}
		if !slices.Equal(got, []configs.Rlimit{c.want}) {
			t.Errorf("%v: locked memory is limited to %v, want %v", c.limits, got, c.want)
		}
	}
}
