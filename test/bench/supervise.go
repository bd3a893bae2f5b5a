package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// innerEnv tells the second process that it is the bench; its value is the name
// of the cgroup that the run's pods live under.
const innerEnv = "BERTH_BENCH_CGROUP"

// diskEnv names the run's directory on the real disk.
const diskEnv = "BERTH_BENCH_DISK"

// innerGrace is how long the bench may take to remove its pods after a signal.
const innerGrace = 90 * time.Second

// runPrefix begins the names of a run's cgroup and directory on disk; the
// supervisor's PID follows.
const runPrefix = "berth-bench-"

// sweepStale removes what a supervisor that was killed could not: the cgroups
// and directories of runs whose supervisor is gone.
func sweepStale() {
	patterns := []string{filepath.Join(os.TempDir(), runPrefix+"*")}
	for _, h := range hierarchies() {
		patterns = append(patterns, filepath.Join(h, runPrefix+"*"))
	}
	for _, pattern := range patterns {
		found, _ := filepath.Glob(pattern)
		for _, path := range found {
			name := filepath.Base(path)
			pid, _, _ := strings.Cut(strings.TrimPrefix(name, runPrefix), "-")
			if n, err := strconv.Atoi(pid); err != nil || unix.Kill(n, 0) != unix.ESRCH {
				continue
			}
			if strings.HasPrefix(path, cgroupMount) {
				_ = removeCgroups(name)
			} else {
				_ = os.RemoveAll(path)
			}
		}
	}
}

// supervise runs the bench in namespaces of its own and removes afterwards what
// namespaces do not hold: cgroups and the directory on disk.
func supervise(ctx context.Context) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "bench: must run as root: it makes namespaces, mounts and bridges")
		return 2
	}
	sweepStale()
	name := runPrefix + strconv.Itoa(os.Getpid())
	disk, err := os.MkdirTemp("", name+"-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	code := runInner(ctx, name, disk)
	if err := errors.Join(removeCgroups(name), os.RemoveAll(disk)); err != nil {
		fmt.Fprintln(os.Stderr, "bench: left behind:", err)
		return 1
	}
	fmt.Fprintln(os.Stderr, "bench: nothing left behind (processes, mounts and network ended with their namespaces; cgroups and directory removed)")
	return code
}

// runInner starts the bench and waits for it; the exit code is the bench's.
func runInner(ctx context.Context, cgroup, disk string) int {
	// The parent-death signal belongs to the thread that forked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	cmd := exec.CommandContext(ctx, exe, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), innerEnv+"="+cgroup, diskEnv+"="+disk)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // Ctrl-C reaches the bench once, through Cancel
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = innerGrace
	err = cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode()
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}
