package cgroup

import (
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// If the last process of a cgroup ends just when the time is over, the cgroup is empty. That
// is no error: it would name no process.
func TestEmptiedAtTheLastMoment(t *testing.T) {
	dir := t.TempDir() // stands for a cgroup, which lists its processes in a file
	child := exec.Command("sleep", "infinity")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	list := filepath.Join(dir, "cgroup.procs")
	write := func(text string) {
		if err := os.WriteFile(list, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(strconv.Itoa(child.Process.Pid) + "\n")
	if err := Kill(dir, 0, nil); err == nil {
		t.Error("a process that is still listed is no error")
	}
	if err := Kill(dir, 0, func() { write("") }); err != nil {
		t.Error(err)
	}
}

// list makes a directory that stands for a cgroup, since the kernel would not list what it
// has to list here.
func list(t *testing.T, dir string, lines ...string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestOwnProcessIsLeftOut: a shim that is in the cgroup of a pod must not kill itself, and a
// process that is not visible in our PID namespace (0) has no PID to be signalled by: 0 would
// be our process group.
func TestOwnProcessIsLeftOut(t *testing.T) {
	dir := t.TempDir()
	list(t, dir, "0", strconv.Itoa(os.Getpid()), "no number")
	list(t, filepath.Join(dir, "below"), strconv.Itoa(os.Getpid()), "5000001")
	if got, err := PIDs(dir); err != nil || !slices.Equal(got, []int{5000001}) {
		t.Errorf("PIDs = %v, %v, want 5000001 alone", got, err)
	}
	got := make(chan os.Signal, 2)
	signal.Notify(got, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(got)
	if err := Signal(dir, unix.SIGUSR1); err != nil {
		t.Errorf("Signal to no process that is there: %v", err)
	}
	if err := unix.Kill(os.Getpid(), unix.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	if first := <-got; first != unix.SIGUSR2 { // of two pending signals the smaller number comes first
		t.Errorf("the calling process got %v, want only the signal that it sent to itself", first)
	}
}

func TestNoCgroupHasNoProcesses(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	if got, err := PIDs(gone); err != nil || len(got) != 0 {
		t.Errorf("PIDs of a cgroup that does not exist = %v, %v, want none", got, err)
	}
	killed := func() { t.Error("killed was called without a cgroup") }
	for _, dir := range []string{"", gone} {
		if err := Kill(dir, time.Minute, killed); err != nil {
			t.Errorf("Kill(%q) = %v, want nil", dir, err)
		}
	}
}

// TestKillNamesWhatIsLeft: the operator has to find the process that does not die.
func TestKillNamesWhatIsLeft(t *testing.T) {
	dir := t.TempDir()
	list(t, dir, "5000001") // above 2^22, the largest PID that the kernel can give
	err := Kill(dir, 0, nil)
	if err == nil || !strings.Contains(err.Error(), "[5000001]") || !strings.Contains(err.Error(), dir) {
		t.Errorf("Kill = %v, want an error with 5000001 and %s", err, dir)
	}
}
