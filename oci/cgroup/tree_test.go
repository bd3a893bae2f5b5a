package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// made makes a cgroup with one below it, which the test removes again.
func made(t *testing.T) (outer, inner string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); errors.Is(err, fs.ErrNotExist) {
		root = filepath.Join(root, "pids") // v1
	}
	outer, err := os.MkdirTemp(root, "berth-test-")
	if err != nil {
		t.Skip("no cgroup can be made here: ", err)
	}
	inner = filepath.Join(outer, "inner")
	t.Cleanup(func() {
		if err := errors.Join(os.Remove(inner), os.Remove(outer)); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	return outer, inner
}

// runIn starts a script in a cgroup. The script begins when it is there.
func runIn(t *testing.T, dir, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "read go; "+script)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// TestKillEndsTheTree: processes of the cgroup below die too, and those that fork meanwhile.
func TestKillEndsTheTree(t *testing.T) {
	outer, inner := made(t)
	first := runIn(t, outer, "i=0; while [ $i -lt 50 ]; do sleep 100 & i=$((i+1)); done; wait")
	second := runIn(t, inner, "sleep 100 & sleep 100")
	var all []int
	if err := Each(outer, func(m Member) error {
		if m.Exists() {
			all = append(all, m.PID)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	for _, cmd := range []*exec.Cmd{first, second} {
		if !slices.Contains(all, cmd.Process.Pid) {
			t.Errorf("process %d is not among the members", cmd.Process.Pid)
		}
	}
	if err := Kill(outer, 30*time.Second, nil); err != nil {
		t.Error(err)
	}
	if left, err := PIDs(outer); err != nil || len(left) != 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	for _, cmd := range []*exec.Cmd{first, second} {
		_ = cmd.Wait()
		if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != unix.SIGKILL {
			t.Errorf("process %d has ended by %v, want SIGKILL", cmd.Process.Pid, ws)
		}
	}
	if err := Kill(outer, 0, nil); err != nil {
		t.Errorf("a cgroup without processes: %v", err)
	}
	if err := Kill(filepath.Join(outer, "none"), 0, nil); err != nil {
		t.Errorf("a cgroup that does not exist: %v", err)
	}
}

// TestSignalReachesMembersOnly: a process outside of the cgroup gets no signal.
func TestSignalReachesMembersOnly(t *testing.T) {
	outer, inner := made(t)
	inside := runIn(t, inner, "sleep 100")
	outside := exec.Command("sleep", "100")
	if err := outside.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = outside.Process.Kill(); _ = outside.Wait() }()
	if err := Signal(outer, unix.SIGTERM); err != nil {
		t.Error(err)
	}
	_ = inside.Wait()
	if ws := inside.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != unix.SIGTERM {
		t.Errorf("the member has ended by %v, want SIGTERM", ws)
	}
	if err := outside.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("a process outside has ended: %v", err)
	}
}
