package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
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
