package leaks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"berth/oci/cgroup"
	"berth/oci/procfs"
	"berth/oci/shimapi"
)

// killTime is how long the processes of a cgroup may take to end when they are killed.
const killTime = 10 * time.Second

// mounts are those below the directories of pods and containers, and others that berth makes.
func (n *Node) mounts() ([]owned, error) {
	points, err := mountsBelow(n.Root, n.State)
	var out []owned
	for _, point := range points {
		m := owned{Thing: Thing{
			Kind: kindMount, Name: point,
			gone:   func() bool { mounted, err := mountinfo.Mounted(point); return err == nil && !mounted },
			remove: func(context.Context) error { return unmount(point) },
		}}
		if n.ofOperator(point) {
			continue
		}
		n.assignMount(&m, point)
		out = append(out, m)
	}
	return out, err
}

// ofOperator tells whether a mount is directly below the root or state directory.
func (n *Node) ofOperator(point string) bool {
	_, rest := n.below(point)
	return !strings.Contains(rest, "/")
}

// assignMount says whose a mount is, by its place.
func (n *Node) assignMount(m *owned, point string) {
	dir, rest := n.below(point)
	parts := strings.Split(rest, "/")
	switch {
	case dir == n.State && parts[0] == "pods":
		m.pod = parts[1]
	case dir == n.State && parts[0] == "containers":
		m.container = parts[1]
	case dir == n.Root && parts[0] == "pods" && len(parts) > 3:
		m.container = parts[3]
	case dir == n.Root && parts[0] == "cni":
		m.pod = podID.FindString(rest)
	default:
		m.stray = "berth mounts nothing there"
	}
}

// below splits a path into the root or state directory and what is below it.
func (n *Node) below(path string) (dir, rest string) {
	for _, d := range []string{n.State, n.Root} {
		if r, ok := strings.CutPrefix(path, d+"/"); ok {
			return d, r
		}
	}
	return "", path
}

// mountsBelow lists mount points below dirs, those mounted last first.
func mountsBelow(dirs ...string) ([]string, error) {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !slices.ContainsFunc(dirs, func(d string) bool { return strings.HasPrefix(i.Mountpoint, d+"/") }), false
	})
	var out []string
	for _, i := range slices.Backward(infos) {
		out = append(out, i.Mountpoint)
	}
	return out, err
}

// unmount detaches a mount, which ends once nobody uses it any more, and removes its
// mount point if that is empty.
func unmount(point string) error {
	if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount: %w", err)
	}
	_ = os.Remove(point) // a directory of the rest goes as such
	return nil
}

// cgroups are those that were made for pods of this node.
func (n *Node) cgroups() ([]owned, error) {
	var out []owned
	for name, dirs := range cgroup.MarkedFor(n.State) {
		out = append(out, owned{podPart: cgroup.PodPart(name), Thing: Thing{
			Kind: kindCgroup, Name: name,
			gone:   func() bool { return !slices.ContainsFunc(dirs, func(d string) bool { return !isGone(d) }) },
			remove: func(context.Context) error { return removeCgroups(dirs) },
		}})
	}
	return out, nil
}

// removeCgroups ends what runs in cgroups, and removes them.
func removeCgroups(dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, cgroup.Kill(dir, killTime, nil))
	}
	for _, dir := range dirs {
		errs = append(errs, cgroup.RemoveEmptied(dir, killTime))
	}
	return errors.Join(errs...)
}

// processes are those of berth itself that nobody holds: a shim whose directory is gone,
// and a pause process without a shim and without a record. Those of containers go with
// their cgroups.
func (n *Node) processes() ([]owned, error) {
	all, err := names("/proc")
	if err != nil {
		return nil, err
	}
	shims, err := names(filepath.Join(n.State, "shims"))
	var out []owned
	for _, name := range all {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		switch dir := n.shimDir(pid); {
		case dir != "" && isGone(dir):
			p := process(pid, shimName)
			p.stray = "its directory " + dir + " is gone"
			out = append(out, p)
		case dir == "" && n.isPause(pid, shims):
			if stat, err := procfs.ReadStat(pid); err == nil && n.shimDir(stat.Parent) == "" {
				p := process(pid, "pause")
				p.pid, p.start = pid, stat.Start
				out = append(out, p)
			}
		}
	}
	return out, err
}

// isPause tells whether a process is a pause process that a shim of this node has started:
// it is in a cgroup of those shims, where no container is, and has one mount, which the shim
// makes for it (package oci/shim/pause). shims are the IDs of the shims.
func (n *Node) isPause(pid int, shims []string) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	data, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return false
	}
	// With systemd each shim has a scope of its own, which has its ID in its name.
	ours := []string{"/" + shimapi.ShimCgroup(n.State) + "\n"}
	for _, id := range shims {
		ours = append(ours, "/berth-shim-"+id+"-")
	}
	if !slices.ContainsFunc(ours, func(part string) bool { return strings.Contains(string(data), part) }) {
		return false
	}
	mounts, err := os.ReadFile(filepath.Join(dir, "mountinfo"))
	return err == nil && strings.Count(string(mounts), "\n") == 1 && strings.Contains(string(mounts), " - tmpfs pause ")
}

// shimDir is the directory that a process serves as a shim of this node; "" of any other.
func (n *Node) shimDir(pid int) string {
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return ""
	}
	args := strings.Split(string(line), "\x00")
	if len(args) < 3 || args[0] != "berth-shim" || args[1] != "--dir" || filepath.Dir(args[2]) != filepath.Join(n.State, "shims") {
		return ""
	}
	// Anyone may choose such a command line; a shim is executed from a sealed copy, by root.
	exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	if err != nil || !strings.HasPrefix(exe, "/memfd:berth-shim") {
		return ""
	}
	return args[2]
}

// shimName is what a shim is called: its comm is the descriptor that it was executed from.
const shimName = "berth-shim"

// process is one that goes by SIGKILL.
func process(pid int, name string) owned {
	stat, err := procfs.ReadStat(pid)
	if err != nil {
		stat.Start = 0 // that of no process: it has ended since it was found
	}
	return owned{Thing: Thing{
		Kind: kindProcess, Name: fmt.Sprintf("%d (%s)", pid, name),
		gone: func() bool {
			now, err := procfs.ReadStat(pid)
			return errors.Is(err, os.ErrNotExist) || err == nil && (now.Start != stat.Start || now.Ended())
		},
		remove: func(context.Context) error { return kill(pid, stat.Start) },
	}}
}

// kill ends the process that began at start, and waits for its end.
func kill(pid int, start uint64) error {
	fd, err := procfs.Pidfd(pid, start, 0)
	if errors.Is(err, procfs.ErrEnded) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill: %w", err)
	}
	for deadline := time.Now().Add(killTime); ; {
		ended, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
		switch {
		case ended > 0:
			return nil
		case errors.Is(err, unix.EINTR) && time.Now().Before(deadline):
		default:
			return fmt.Errorf("it did not end within %v of SIGKILL", killTime)
		}
	}
}
