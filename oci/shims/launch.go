package shims

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
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

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// launch makes a directory for a shim and starts it there.
func (s *Set) launch(ctx context.Context, id string) (*child, error) {
	dir := filepath.Join(s.dir(), id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	c, err := s.start(ctx, dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return c, nil
}

// child is a shim that we started.
type child struct {
	proc   *os.Process
	reaped chan struct{} // closed when it has ended and was waited for
}

// end kills it.
func (c *child) end() {
	_ = c.proc.Kill() // it may have ended
	<-c.reaped
}

// start starts a shim and returns when it can be connected to.
func (s *Set) start(ctx context.Context, dir string) (*child, error) {
	var open fileSet
	defer open.close()
	null := open.add(os.OpenFile(os.DevNull, os.O_RDONLY, 0))
	log := open.add(os.OpenFile(filepath.Join(dir, shimapi.LogName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600))
	lock := open.add(lockDir(dir))
	exe := open.add(sealedCopy(s.config.Binary))
	ready, told, perr := os.Pipe()
	open.add(ready, perr)
	open.add(told, perr)
	if open.err != nil {
		return nil, open.err
	}
	proc, err := s.execute(dir, []*os.File{null, log, log, told, lock, exe})
	if err != nil {
		return nil, err
	}
	_ = told.Close() // the shim's end decides
	if err := awaitReady(ctx, ready, filepath.Join(dir, shimapi.LogName)); err != nil {
		_ = proc.Kill()    // it may have ended by itself
		_, _ = proc.Wait() // why it ended is in err
		return nil, err
	}
	// It may outlive us; if we outlive it, it must not stay a zombie.
	c := &child{proc, make(chan struct{})}
	go func() {
		defer close(c.reaped)
		_, _ = proc.Wait() // its end is what matters
	}()
	return c, nil
}

// execute runs the shim from the sealed memfd, file 5 of the child, in a session
// and a cgroup of its own.
func (s *Set) execute(dir string, files []*os.File) (*os.Process, error) {
	level := 0
	if s.config.LogLevel >= 4 {
		level = -4
	}
	attr := &os.ProcAttr{Dir: "/", Env: []string{"PATH=" + os.Getenv("PATH")}, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}}
	groups, err := makeShimCgroup(s.config.StateDir)
	if err != nil {
		return nil, err
	}
	if groups.unified != nil {
		defer groups.unified.Close()
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(groups.unified.Fd())
	}
	// What the daemon inherited without knowing would stay open in the shim.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // Go opens nothing without it
	proc, err := os.StartProcess("/proc/self/fd/5", []string{
		"berth-shim", "--dir", dir, "--version", s.config.Version, "--log-level", strconv.Itoa(level),
	}, attr)
	if err != nil {
		return nil, fmt.Errorf("execute %s: %w", s.config.Binary, err)
	}
	for _, group := range groups.v1 {
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(proc.Pid)), 0); err != nil {
			_ = proc.Kill()    // just started
			_, _ = proc.Wait() // by the kill
			return nil, fmt.Errorf("cgroup of the shim: %w", err)
		}
	}
	return proc, nil
}

// awaitReady reads the one line that the shim says when it serves or can't.
func awaitReady(ctx context.Context, ready *os.File, log string) error {
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	data, err := io.ReadAll(io.LimitReader(ready, 4096))
	said := strings.TrimSpace(string(data))
	switch {
	case said == "ready":
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case said != "":
		return errors.New(said)
	}
	// It died before it could say; its log is about to be removed.
	last, _ := os.ReadFile(log)
	return fmt.Errorf("it ended before it served, saying %q", last[max(0, len(last)-1024):])
}

// sealedCopy puts a program into a memfd that nobody can change. Containers'
// inits are executed from it as well: libcontainer trusts no other file, since a
// container sees its init's, and would make such a copy for every start.
func sealedCopy(path string) (*os.File, error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("shim binary: %w", err)
	}
	defer src.Close()
	fd, err := unix.MemfdCreate("berth-shim", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3: executable without being asked
		fd, err = unix.MemfdCreate("berth-shim", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd for the shim: %w", err)
	}
	f := os.NewFile(uintptr(fd), "berth-shim")
	_, err = io.Copy(f, src)
	if err == nil {
		err = f.Chmod(0o511)
	}
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("memfd for the shim: %w", err), f.Close())
	}
	return f, nil
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
		_ = f.Close() // the child has its copies
	}
}

// shimCgroups are the groups of the shims of one state directory: outside the
// daemon's, so that neither its limits nor its unit's restart reach the shims.
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

// removeShimCgroup removes the groups if no shim is in them any more.
func removeShimCgroup(stateDir string) {
	dirs, _ := shimCgroupDirs(stateDir)
	for _, dir := range dirs {
		_ = unix.Rmdir(dir) // busy: another shim lives
	}
}

// shimCgroupDirs names the groups: on v1 only where it is of use (what the shims
// take can be seen and is nobody else's), since every join costs milliseconds.
func shimCgroupDirs(stateDir string) (dirs []string, unified bool) {
	sum := sha256.Sum256([]byte(stateDir))
	name := "berth-shim-" + hex.EncodeToString(sum[:6])
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		fields, fs := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(fs) < 3 {
			continue
		}
		options := strings.Split(fs[2], ",")
		switch {
		case fs[0] == "cgroup2" && fields[4] == "/sys/fs/cgroup":
			return []string{filepath.Join(fields[4], name)}, true
		case fs[0] == "cgroup" && slices.ContainsFunc(options, func(o string) bool {
			return o == "memory" || o == "pids" || o == "name=systemd"
		}):
			dirs = append(dirs, filepath.Join(fields[4], name))
		}
	}
	return dirs, false
}
