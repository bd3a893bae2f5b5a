package shims

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"berth/oci/failure"
	"berth/oci/flock"
	"berth/oci/memfd"
	"berth/oci/shimapi"
)

// launcher starts processes of shims.
type launcher Config

// launch makes the directory of a new shim and starts a process there.
func (l launcher) launch(ctx context.Context, dir string) (*child, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	c, err := l.start(ctx, dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return c, nil
}

// lockDir takes the lock of a shim's directory. A living shim holds it: the error wraps
// [flock.ErrLocked] then.
func lockDir(dir string) (*os.File, error) {
	return flock.Try(filepath.Join(dir, shimapi.LockName))
}

// start starts a process of the shim in dir and returns when it serves.
func (l launcher) start(ctx context.Context, dir string) (*child, error) {
	var open fileSet
	defer open.close()
	null := open.add(os.OpenFile(os.DevNull, os.O_RDONLY, 0))
	log := open.add(os.OpenFile(filepath.Join(dir, shimapi.LogName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600))
	lock := open.add(lockDir(dir))
	exe := open.add(sealedCopy(l.Binary))
	ready, readyShim, perr := os.Pipe()
	open.add(ready, perr)
	open.add(readyShim, perr)
	if open.err != nil {
		return nil, open.err
	}
	logged, err := log.Seek(0, io.SeekEnd) // by processes before it
	if err != nil {
		return nil, fmt.Errorf("log of the shim: %w", err)
	}
	proc, err := l.execute(ctx, dir, []*os.File{null, log, log, readyShim, lock, exe})
	if err != nil {
		return nil, err
	}
	_ = readyShim.Close() // so that the shim's end is the end of the pipe
	if err := awaitReady(ctx, ready, filepath.Join(dir, shimapi.LogName)); err != nil {
		_ = proc.Kill()    // it may have ended by itself
		_, _ = proc.Wait() // err says why it ended
		return nil, err
	}
	return newChild(proc, dir, logged), nil
}

// execute runs the shim from the sealed memfd, file 5 of the child, in a session
// and a cgroup of its own, which systemd makes where cgroups are systemd's.
func (l launcher) execute(ctx context.Context, dir string, files []*os.File) (*os.Process, error) {
	level := 0
	if l.LogLevel >= 4 {
		level = -4
	}
	attr := &os.ProcAttr{Dir: "/", Env: []string{"PATH=" + os.Getenv("PATH")}, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}}
	var groups shimCgroups
	if !l.Scopes {
		var err error
		if groups, err = makeShimCgroup(l.StateDir); err != nil {
			return nil, err
		}
	}
	if groups.unified != nil {
		defer groups.unified.Close()
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(groups.unified.Fd())
	}
	// A descriptor that the daemon inherited without O_CLOEXEC would stay open in the
	// shim. Go itself opens none without.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // before Linux 5.11 they do stay open
	proc, err := os.StartProcess("/proc/self/fd/5", []string{
		filepath.Base(l.Binary), "--dir", dir, "--version", l.Version, "--log-level", strconv.Itoa(level),
	}, attr)
	if err != nil {
		return nil, programFault("execute "+l.Binary, err)
	}
	err = groups.join(proc.Pid)
	if l.Scopes {
		err = startScope(ctx, filepath.Base(dir), proc.Pid)
	}
	if err != nil {
		_ = proc.Kill()    // just started
		_, _ = proc.Wait() // by the kill
		return nil, err
	}
	return proc, nil
}

// join moves a process into the v1 cgroups.
func (g shimCgroups) join(pid int) error {
	for _, dir := range g.v1 {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("cgroup of the shim: %w", err)
		}
	}
	return nil
}

// awaitReady reads the one line that a shim writes: "ready", or why it can't serve.
func awaitReady(ctx context.Context, ready *os.File, log string) error {
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	data, err := io.ReadAll(io.LimitReader(ready, 4096))
	line := strings.TrimSpace(string(data))
	switch {
	case line == "ready":
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case line != "":
		return errors.New(line)
	}
	// It died before it wrote the line. Its log is about to be removed.
	last, _ := os.ReadFile(log)
	return fmt.Errorf("it ended before it served, saying %q", last[max(0, len(last)-1024):])
}

// sealedCopy copies a program to a memfd that nobody can change. The first processes of
// containers are executed from it as well: a container can open the file that its first
// process was executed from, so libcontainer trusts none but such a copy, and would make
// one at every start.
func sealedCopy(path string) (*os.File, error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, programFault("shim binary", err)
	}
	defer src.Close()
	return memfd.Sealed("berth-shim", src, 0o511)
}

// errNoProgram: the program of the shims is missing, or can't be executed.
var errNoProgram = errors.New("no program")

// programFault is the error of opening or executing the program of the shims.
func programFault(what string, err error) error {
	for _, lasting := range []error{os.ErrNotExist, os.ErrPermission, unix.ENOEXEC} {
		if errors.Is(err, lasting) {
			return failure.New(errNoProgram, "%s: %w", what, err)
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// fileSet opens several files and keeps the first error.
type fileSet struct {
	files []*os.File
	err   error
}

func (o *fileSet) add(f *os.File, err error) *os.File {
	if err != nil {
		o.err = errors.Join(o.err, err)
		return nil
	}
	o.files = append(o.files, f)
	return f
}

func (o *fileSet) close() {
	for _, f := range o.files {
		_ = f.Close() // the child has duplicates
	}
}

// shimCgroups are the cgroups of the shims of one state directory. They lie outside the
// daemon's cgroup, so that neither its limits nor a restart of its unit reach the shims.
type shimCgroups struct {
	unified *os.File // v2
	v1      []string
}

func makeShimCgroup(stateDir string) (g shimCgroups, err error) {
	dirs, unified := shimCgroupDirs(stateDir)
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return g, fmt.Errorf("cgroup of the shim: %w", err)
		}
	}
	if !unified {
		g.v1 = dirs
		return g, nil
	}
	g.unified, err = os.OpenFile(dirs[0], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return g, fmt.Errorf("cgroup of the shim: %w", err)
	}
	return g, nil
}

// removeShimCgroup removes the cgroups unless a shim is in them.
func removeShimCgroup(stateDir string) {
	dirs, _ := shimCgroupDirs(stateDir)
	for _, dir := range dirs {
		_ = unix.Rmdir(dir) // EBUSY: a shim lives
	}
}

// shimCgroupDirs names the cgroups. On v1 they are in those hierarchies only where they
// serve to account for the shims' memory and processes, or to keep systemd's view apart,
// since joining each costs milliseconds.
func shimCgroupDirs(stateDir string) (dirs []string, unified bool) {
	name := shimapi.ShimCgroup(stateDir)
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, false
	}
	for _, m := range mounts {
		switch {
		case m.FSType == "cgroup2" && m.Mountpoint == "/sys/fs/cgroup":
			return []string{filepath.Join(m.Mountpoint, name)}, true
		case m.FSType == "cgroup" && slices.ContainsFunc(strings.Split(m.VFSOptions, ","), func(o string) bool {
			return o == "memory" || o == "pids" || o == "name=systemd"
		}):
			dirs = append(dirs, filepath.Join(m.Mountpoint, name))
		}
	}
	return dirs, false
}
