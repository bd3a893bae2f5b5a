package shim

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
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

// pids lists the processes of the cgroup at dir and below. A cgroup that is gone
// has none.
func pids(dir string) []int {
	var all []int
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if !d.IsDir() {
			return nil
		}
		data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil // removed meanwhile, or a threaded cgroup whose processes the parent lists
		}
		for field := range bytes.FieldsSeq(data) {
			// 0 is a process of another PID namespace; itself the shim never signals.
			if pid, err := strconv.Atoi(string(field)); err == nil && pid > 0 && pid != os.Getpid() {
				all = append(all, pid)
			}
		}
		return nil
	})
	return all
}

// signalAll sends sig to every process of the cgroup once.
func signalAll(dir string, sig unix.Signal) error {
	var failed error
	targets := openPids(dir)
	defer closePids(targets)
	for _, t := range targets {
		if err := unix.PidfdSendSignal(t.fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			failed = errors.Join(failed, fmt.Errorf("signal %d to %d: %w", sig, t.pid, err))
		}
	}
	return failed
}

type target struct{ pid, fd int }

// openPids takes hold of the processes of the cgroup. What was not in it before
// and after its pidfd was opened may be a stranger with a reused number.
func openPids(dir string) []target {
	var held []target
	for _, pid := range pids(dir) {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			held = append(held, target{pid, fd})
		}
	}
	still := pids(dir)
	return slices.DeleteFunc(held, func(t target) bool {
		if slices.Contains(still, t.pid) {
			return false
		}
		_ = unix.Close(t.fd) // only a handle
		return true
	})
}

func closePids(targets []target) {
	for _, t := range targets {
		_ = unix.Close(t.fd) // only a handle
	}
}

// empty kills every process of the container, frozen ones too, see [emptyDir].
func (g group) empty() error { return emptyDir(g.dir(), stopGrace, g.thaw) }

// emptyDir kills every process of the cgroup at dir until there is none, for at
// most the time given. It freezes nothing: what forks is met again in the next round,
// and cgroup.kill, where there is one, leaves no rounds to fork in. killed is called
// after each round.
func emptyDir(dir string, within time.Duration, killed func()) error {
	if dir == "" {
		return nil
	}
	deadline := time.Now().Add(within)
	for {
		if len(pids(dir)) == 0 {
			return nil
		}
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) // v2, Linux 5.14; the loop does without
		targets := openPids(dir)
		for _, t := range targets {
			_ = unix.PidfdSendSignal(t.fd, unix.SIGKILL, nil, 0) // gone already: good
		}
		killed()
		awaitEnds(targets, deadline)
		closePids(targets)
		if time.Now().After(deadline) {
			if left := pids(dir); len(left) > 0 {
				return fmt.Errorf("processes %v of cgroup %s do not die of SIGKILL", left, dir)
			}
			return nil
		}
	}
}

// awaitEnds returns when all targets have ended or the time has come.
func awaitEnds(targets []target, deadline time.Time) {
	for _, t := range targets {
		fds := []unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN}}
		for {
			left := time.Until(deadline)
			if left <= 0 {
				return
			}
			if _, err := unix.Poll(fds, int(left/time.Millisecond)+1); !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
}

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
func (s *subgroup) empty() error { return emptyDir(s.dir, stopGrace, func() {}) }

// remove gives what still runs (a command may leave a daemon behind) to the
// container and removes the cgroup. One that can't be emptied so, since the
// container has children of its own, goes with the container.
func (s *subgroup) remove() {
	for range 100 { // it may fork while it is moved
		left := pids(s.dir)
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
