package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/test/fewfiles"
)

// newCgroup makes a cgroup of the kernel with one below it, and removes both. On cgroup v1
// it is in the hierarchy of the freezer, which limits nothing.
func newCgroup(t *testing.T) (dir, below string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may make cgroups")
	}
	root := "/sys/fs/cgroup/freezer"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		root = "/sys/fs/cgroup"
	}
	dir, err := os.MkdirTemp(root, "berth-kill-test-")
	if err != nil {
		t.Skip("no cgroup can be made here: ", err)
	}
	below = filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, d := range []string{below, dir} {
			if err := unix.Rmdir(d); err != nil {
				t.Errorf("cgroup %s is left: %v", d, err)
			}
		}
	})
	return dir, below
}

// start runs a shell script in the cgroup, or where this process is if dir is "". The script
// must print a line when it is ready.
func start(t *testing.T, dir, script string) *exec.Cmd {
	t.Helper()
	c := exec.Command("sh", "-c", "read go; "+script)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	if dir != "" {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(c.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(in, "\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return c
}

// signalOf is the signal by which a process ended, 0 if it ended by itself.
func signalOf(c *exec.Cmd) syscall.Signal {
	_ = c.Wait() // how it ended is in ProcessState
	if ws, ok := c.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return ws.Signal()
	}
	return 0
}

// TestKill kills what is in a cgroup and in the one below it: a process that ignores other
// signals, and one that forks all the time.
func TestKill(t *testing.T) {
	dir, below := newCgroup(t)
	deaf := start(t, dir, `trap "" TERM INT; echo; while :; do sleep 1000; done`)
	forking := start(t, below, `echo; n=0; while [ $n -lt 1000 ]; do sleep 1000 & n=$((n+1)); done; wait`)
	beside := start(t, "", `echo; exec sleep 1000`)
	rounds := 0
	if err := Kill(dir, 30*time.Second, func() { rounds++ }); err != nil {
		t.Fatal(err)
	}
	if left, err := PIDs(dir); err != nil || len(left) != 0 || rounds == 0 {
		t.Errorf("after Kill the cgroup has %v (%v), and killed was called %d times; want no process and at least one call", left, err, rounds)
	}
	for name, c := range map[string]*exec.Cmd{"the deaf one": deaf, "the forking one": forking} {
		if got := signalOf(c); got != syscall.SIGKILL {
			t.Errorf("%s ended by %v, want SIGKILL", name, got)
		}
	}
	if err := beside.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("a process outside of the cgroup: %v, want it alive", err)
	}
	if err := Kill(dir, 0, nil); err != nil {
		t.Errorf("Kill of an empty cgroup: %v", err)
	}
}

// TestSignal: each process gets the signal, also below, and none is killed by it.
func TestSignal(t *testing.T) {
	dir, below := newCgroup(t)
	first := start(t, dir, `trap "exit 7" TERM; echo; while :; do sleep 0.01; done`)
	second := start(t, below, `trap "exit 7" TERM; echo; while :; do sleep 0.01; done`)
	if err := Signal(dir, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*exec.Cmd{"above": first, "below": second} {
		if sig := signalOf(c); sig != 0 || c.ProcessState.ExitCode() != 7 {
			t.Errorf("the process %s ended with code %d, signal %v; want its handler's code 7", name, c.ProcessState.ExitCode(), sig)
		}
	}
	if err := Kill(dir, 30*time.Second, nil); err != nil { // the sleeps of the two
		t.Error(err)
	}
}

// TestMemberExists: the pidfd tells a zombie, whose PID is still taken, from one that was
// reaped.
func TestMemberExists(t *testing.T) {
	dir, _ := newCgroup(t)
	c := start(t, dir, `echo; exec sleep 1000`)
	found := 0
	err := Each(dir, func(m Member) error {
		if found++; m.PID != c.Process.Pid {
			t.Errorf("process %d is found, want %d", m.PID, c.Process.Pid)
		}
		if err := c.Process.Kill(); err != nil {
			return err
		}
		m.await(time.Now().Add(30 * time.Second))
		if !m.Exists() {
			t.Error("a process that was not reaped does not exist")
		}
		_ = c.Wait() // it was killed
		if m.Exists() {
			t.Error("a process that was reaped exists")
		}
		return nil
	})
	if err != nil || found != 1 {
		t.Errorf("%d processes are found, %v; want one", found, err)
	}
}

// crowd starts so many processes in a cgroup.
func crowd(t *testing.T, dir string, size int) *exec.Cmd {
	t.Helper()
	return start(t, dir, fmt.Sprintf(`n=0; while [ $n -lt %d ]; do sleep 1000 & n=$((n+1)); done; echo; wait`, size))
}

// TestKillHoldsFewDescriptors: a container with more processes than its shim may open files
// must neither use up what the other containers need, nor stay alive.
func TestKillHoldsFewDescriptors(t *testing.T) {
	dir, below := newCgroup(t)
	many := crowd(t, below, 3*heldTogether)
	most := 0
	if err := Each(dir, func(Member) error {
		open, err := os.ReadDir("/proc/self/fd")
		most = max(most, len(open))
		return err
	}); err != nil {
		t.Error(err)
	}
	if most > heldTogether+32 {
		t.Errorf("%d files are open at the same time, for %d processes", most, 3*heldTogether)
	}
	enough := fewfiles.Spare(t, 4)
	err := Kill(dir, 30*time.Second, nil)
	if enough(); err != nil {
		t.Errorf("with few descriptors: %v", err)
	}
	if got := signalOf(many); got != syscall.SIGKILL {
		t.Errorf("the first process ended by %v, want SIGKILL", got)
	}
}

// TestKillFindsALateProcess: a process that comes into the cgroup when the others were killed is
// killed as well, and not waited for until it ends by itself.
func TestKillFindsALateProcess(t *testing.T) {
	dir, _ := newCgroup(t)
	all := []*exec.Cmd{start(t, dir, `echo; exec sleep 1000`)}
	err := Kill(dir, 20*time.Second, func() {
		if len(all) == 1 {
			all = append(all, start(t, dir, `echo; exec sleep 1000`))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range all {
		if got := signalOf(c); got != syscall.SIGKILL {
			t.Errorf("process %d ended by %v, want SIGKILL", i, got)
		}
	}
}

// TestKillWithoutDescriptors: that nothing can be looked at is not that nothing is there.
func TestKillWithoutDescriptors(t *testing.T) {
	dir, _ := newCgroup(t)
	c := start(t, dir, `echo; exec sleep 1000`)
	enough := fewfiles.Spare(t, 0)
	err := Kill(dir, 100*time.Millisecond, nil)
	enough()
	if !errors.Is(err, unix.EMFILE) {
		t.Errorf("Kill without descriptors = %v, want EMFILE", err)
	}
	if err := c.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the process: %v, want it alive", err)
	}
	if err := Kill(dir, 30*time.Second, nil); err != nil {
		t.Error(err)
	}
}
