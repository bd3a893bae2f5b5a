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
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"berth/oci/cgroup"
)

const unifiedRoot = "/sys/fs/cgroup"

func unified() bool { return cgroups.IsCgroup2UnifiedMode() }

// group is a container's cgroups: the absolute path by controller. The key "" is the v2
// hierarchy, also that of hybrid hosts, which have it beside v1.
type group map[string]string

// dir is a directory that lists the container's processes. On v1 every hierarchy does, and
// dir is in the cheapest.
func (g group) dir() string {
	_, path := g.cheapest()
	return path
}

// cheapest names the hierarchy in which joining a child cgroup costs least. It is never the
// v2 hierarchy of a hybrid host, because libcontainer takes the key "" for all hierarchies.
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

// checkCgroupPath refuses a cgroup that contains the shim or other processes of the host:
// all processes in a container's cgroup are killed when the container ends.
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

// killAll kills every process of the container, frozen ones too.
func (g group) killAll() error { return cgroup.Kill(g.dir(), stopGrace, g.thaw) }

// removeEmptied removes the cgroups of a container that has ended, which may be deleted much
// later. A program that finds the containers by their cgroups, as cAdvisor does, would take it
// for one that runs and uses nothing. The time given is for all of them together; the deletion
// tries again. A scope is left to systemd, which forgets it only when it sees it empty itself.
func (g group) removeEmptied(within time.Duration) {
	deadline := time.Now().Add(within)
	for controller, dir := range g {
		if filepath.Ext(dir) == ".scope" && (controller == "" || controller == "name=systemd") {
			continue
		}
		if err := cgroup.RemoveEmptied(dir, time.Until(deadline)); err != nil {
			slog.Warn("cgroup of an ended container not removed; its deletion tries again", "cgroup", dir, "error", err)
		}
	}
}

// groupsAt are the cgroups that a path would have, for a runtime that makes one for each
// container of a pod and keeps the processes elsewhere, as gVisor does. With systemd there are
// none of those.
func groupsAt(path string) group {
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil || !filepath.IsAbs(path) {
		return nil
	}
	g := group{}
	for controller := range own {
		if dir := hierarchyDir(controller); dir != "" {
			g[controller] = filepath.Join(dir, path)
		}
	}
	return g
}

// refusedForks counts the forks of the container that a limit has refused, as far as its own
// cgroup tells.
func (g group) refusedForks() uint64 {
	dir := g["pids"]
	if unified() {
		dir = g[""]
	}
	if dir == "" {
		return 0
	}
	return cgroup.RefusedForks(dir)
}

// subgroup is the cgroup of one exec below its container's.
type subgroup struct {
	parent, dir string
	paths       map[string]string // for libcontainer
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

// killAll kills all that the session started. If the container is frozen the processes die
// when it is thawed: the end of one command is no reason to thaw a container.
func (s *subgroup) killAll() error { return cgroup.Kill(s.dir, stopGrace, nil) }

// remove moves processes that still run (the command may have started a daemon) to the
// container's cgroup, and removes the session's. If they can't be moved, because the
// container has made cgroups of its own, the cgroup is removed with the container.
func (s *subgroup) remove() {
	if unix.Rmdir(s.dir) == nil {
		return // of most commands nothing is left
	}
	for range 100 { // processes may fork while they are moved
		left, err := cgroup.PIDs(s.dir)
		if err != nil {
			slog.Warn("cgroup of a session not removed", "error", err)
			return
		}
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

// ownProcsFile is the cgroup.procs of the shim's own v1 cgroup, "" on v2.
var ownProcsFile = sync.OnceValue(func() string {
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

// prepayRCU makes the shim join the v1 cgroup that it is in already. The first join after
// a pause waits for an RCU grace period (7.5 ms measured, of 15 ms for an exec), the ones
// shortly after do not. Doing it now overlaps that wait with libcontainer's preparation.
func prepayRCU() {
	if path := ownProcsFile(); path != "" {
		_ = os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())), 0) // an error only makes the next join slower
	}
}
