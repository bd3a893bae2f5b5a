package shim

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"berth/oci/cgroup"
)

const unifiedRoot = "/sys/fs/cgroup"

func unified() bool { return cgroups.IsCgroup2UnifiedMode() }

// group is a container's cgroups: controller → absolute path, "" for v2 (also
// for the v2 hierarchy that hybrid hosts have beside v1).
type group map[string]string

// dir is the one directory that lists the container's processes. On v1 each
// hierarchy does; one without controllers is the cheapest.
func (g group) dir() string {
	_, path := g.cheapest()
	return path
}

// cheapest names the hierarchy in which joining a child cgroup costs least. The
// v2 hierarchy of a hybrid host is left out: libcontainer takes its key for "all".
func (g group) cheapest() (controller, path string) {
	if unified() {
		return "", g[""]
	}
	for _, c := range []string{"name=systemd", "freezer", "pids", "devices"} {
		if p, ok := g[c]; ok {
			return c, p
		}
	}
	return "", ""
}

// checkCgroupPath refuses a cgroup in which the shim, or the rest of the host,
// lives: all in it is killed when the container ends.
func checkCgroupPath(path string, systemd bool) error {
	if systemd {
		if len(strings.Split(path, ":")) != 3 {
			return fmt.Errorf("cgroupsPath %q is not slice:prefix:name, as the systemd driver needs it", path)
		}
		return nil
	}
	clean := filepath.Clean(path)
	if !filepath.IsAbs(clean) || clean == "/" {
		return fmt.Errorf("cgroupsPath %q is not an absolute path below the root", path)
	}
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	for _, mine := range own {
		if mine == clean || strings.HasPrefix(mine, clean+"/") {
			return fmt.Errorf("cgroupsPath %q is the shim's own", path)
		}
	}
	return nil
}

// empty kills every process of the container, frozen ones too.
func (g group) empty() error { return cgroup.Kill(g.dir(), stopGrace, g.thaw) }

// subgroup is the cgroup of one exec below its container's.
type subgroup struct {
	parent, dir string
	paths       map[string]string // in libcontainer's terms
}

func (g group) newSubgroup(name string) (*subgroup, error) {
	controller, parent := g.cheapest()
	if parent == "" {
		return nil, errors.New("the container has no cgroup in which a session could be kept together")
	}
	sub := &subgroup{parent: parent, dir: filepath.Join(parent, name), paths: map[string]string{controller: name}}
	if err := os.Mkdir(sub.dir, 0o755); err != nil {
		return nil, fmt.Errorf("cgroup of the session: %w", err)
	}
	return sub, nil
}

// empty kills all that the session started. What somebody froze ends when it is
// thawed: the end of a command is no reason to let the container run on.
func (s *subgroup) empty() error { return cgroup.Kill(s.dir, stopGrace, nil) }

// remove gives what still runs (a command may leave a daemon behind) to the
// container and removes the cgroup. One that can't be emptied so, since the
// container has children of its own, goes with the container.
func (s *subgroup) remove() {
	for range 100 { // it may fork while it is moved
		left := cgroup.PIDs(s.dir)
		if len(left) == 0 {
			break
		}
		for _, pid := range left {
			err := os.WriteFile(filepath.Join(s.parent, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
			if err != nil && !errors.Is(err, unix.ESRCH) {
				slog.Warn("left in the session's cgroup", "pid", pid, "cgroup", s.dir, "error", err)
				return
			}
		}
	}
	if err := cgroups.RemovePath(s.dir); err != nil {
		slog.Warn("cgroup of a session not removed", "cgroup", s.dir, "error", err)
	}
}

// grace is the shim's own place in a v1 hierarchy; "" on v2.
var grace = sync.OnceValue(func() string {
	if unified() {
		return ""
	}
	for _, c := range []string{"name=systemd", "freezer", "pids", "devices"} {
		if path, err := cgroups.GetOwnCgroupPath(c); err == nil {
			return filepath.Join(path, "cgroup.procs")
		}
	}
	return ""
})

// hasten makes joining v1 cgroups, which libcontainer will do in a moment, wait
// less. The first join in a while waits for an RCU grace period (7.5 ms here, of
// 15 ms for an exec); those soon after do not. Joining where it is already, the
// shim has that wait pass while libcontainer prepares.
func hasten() {
	if path := grace(); path != "" {
		_ = os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())), 0) // slower without, that is all
	}
}
