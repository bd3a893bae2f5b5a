package shim

import (
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
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
