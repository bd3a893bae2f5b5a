package shim

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/oci/cgroup"
	"berth/oci/procfs"
)

// gather moves the process of an exec, which the runtime has put into the container's cgroup,
// and the children that it may have by now, into a cgroup of their own; nil: it can't be
// done, and a kill reaches only what the runtime knows.
func (g group) gather(id string, pid int) *subgroup {
	if g.dir() == "" || pid <= 0 {
		return nil
	}
	sub, err := g.newSubgroup(sessionCgroup(id))
	if err != nil {
		slog.Warn("exec has no cgroup of its own", "error", err)
		return nil
	}
	moved := map[int]bool{pid: true}
	for again := true; again; { // what is moved may have forked just before
		again = false
		sub.take(pid)
		all, err := cgroup.PIDs(sub.parent)
		if err != nil {
			slog.Warn("children of an exec may stay in the container's cgroup", "error", err)
		}
		for _, p := range all {
			stat, err := procfs.ReadStat(p)
			if err == nil && !moved[p] && moved[stat.Parent] {
				moved[p], again = true, true
				sub.take(p)
			}
		}
	}
	return sub
}

// take moves a process into the cgroup, unless it has ended.
func (s *subgroup) take(pid int) {
	err := os.WriteFile(filepath.Join(s.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		slog.Warn("process of an exec stays in the container's cgroup", "pid", pid, "error", err)
	}
}
