package shim

import (
	"testing"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// A container of a usual pod is relocated; one that may use other paths of the host, or is to
// see what the host mounts meanwhile, is not.
func TestNeedsHost(t *testing.T) {
	usual := func() *configs.Config {
		return &configs.Config{
			RootPropagation: unix.MS_PRIVATE | unix.MS_REC, Seccomp: &configs.Seccomp{},
			Mounts: []*configs.Mount{
				{Device: "proc", Destination: "/proc"}, {Device: "tmpfs", Destination: "/dev"}, {Device: "cgroup", Destination: "/sys/fs/cgroup"},
				{Device: "bind", Source: "/var", Flags: unix.MS_BIND | unix.MS_REC, PropagationFlags: []int{unix.MS_PRIVATE | unix.MS_REC}},
			},
		}
	}
	if needsHost(usual()) {
		t.Error("a usual container needs the host's mounts")
	}
	for what, change := range map[string]func(*configs.Config){
		"a hook": func(c *configs.Config) {
			c.Hooks = configs.Hooks{configs.CreateRuntime: {configs.NewCommandHook(&configs.Command{Path: "/bin/true"})}}
		},
		"a seccomp agent":      func(c *configs.Config) { c.Seccomp.ListenerPath = "/run/agent.sock" },
		"a slave as root":      func(c *configs.Config) { c.RootPropagation = unix.MS_SLAVE | unix.MS_REC },
		"a shared mount":       func(c *configs.Config) { c.Mounts[3].PropagationFlags = []int{unix.MS_SHARED} },
		"an overlay":           func(c *configs.Config) { c.Mounts[1].Device = "overlay" },
		"a copy up to a tmpfs": func(c *configs.Config) { c.Mounts[1].Extensions = configs.EXT_COPYUP },
	} {
		config := usual()
		change(config)
		if !needsHost(config) {
			t.Errorf("with %s it does not need the host's mounts", what)
		}
	}
}
