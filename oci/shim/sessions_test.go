package shim

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/test/fewfiles"
)

func TestSessions(t *testing.T) {
	var s sessions
	x := &session{}
	if !s.add("a", x) || s.add("a", &session{}) {
		t.Error("an ID is taken once, until its session ends")
	}
	if !s.has("a") || s.started("a") != nil {
		t.Error("a session that has not started is known, and can't be signalled")
	}
	s.setPID(x, 7)
	if s.started("a") != x {
		t.Error("a started session is not found")
	}
	s.remove("a")
	if s.has("a") || s.started("a") != nil || !s.add("a", x) {
		t.Error("a removed session is still known")
	}
}

// The timeout of an exec holds also where the shim has no descriptor to watch it with.
func TestAnExecWithoutDescriptorsTimesOut(t *testing.T) {
	cmd, in := runsUntilClosed(t)
	x := &session{proc: cmd.Process, pid: cmd.Process.Pid, group: &subgroup{}}
	enough := fewfiles.Spare(t, 0)
	time.AfterFunc(500*time.Millisecond, func() { _ = in.Close() }) // which ends it; there is no cgroup to kill
	status, err := x.wait(nil, 10*time.Millisecond)
	enough()
	if err != nil || !status.TimedOut {
		t.Errorf("got %+v, %v; want that it timed out", status, err)
	}
}

func TestSessionNames(t *testing.T) {
	long := make([]byte, 65)
	for i := range long {
		long[i] = 'a'
	}
	for name, want := range map[string]bool{
		"a": true, "Az09-_": true, string(long[:64]): true,
		"": false, string(long): false, "../x": false, "a/b": false, "a.b": false, "a\x00": false, "ä": false,
	} {
		if got := isSessionName(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

// memoryEvents writes the counter files of a container's cgroup and of its parent.
func memoryEvents(t *testing.T, dir string, own, parent int) {
	t.Helper()
	for name, n := range map[string]int{"own": own, "parent": parent} {
		path := filepath.Join(dir, name)
		if n < 0 {
			_ = os.Remove(path)
			continue
		}
		if err := os.WriteFile(path, []byte("low 0\noom 9\noom_kill "+strconv.Itoa(n)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOOMCounter counts by the parent's counter when the cgroup has been removed.
func TestOOMCounter(t *testing.T) {
	dir := t.TempDir()
	c := &oomCounter{own: filepath.Join(dir, "own"), parent: filepath.Join(dir, "parent")}
	for i, step := range []struct {
		own, parent int
		want        uint64
		fresh       bool
	}{
		{0, 4, 0, false}, // others of the parent were killed before
		{1, 5, 1, true},
		{1, 5, 1, false},
		{-1, 7, 3, true}, // the cgroup is gone with two more
		{-1, 7, 3, false},
		{-1, -1, 3, false},
	} {
		memoryEvents(t, dir, step.own, step.parent)
		if n, fresh := c.fresh(); n != step.want || fresh != step.fresh {
			t.Errorf("step %d: %d kills, fresh %v, want %d, %v", i, n, fresh, step.want, step.fresh)
		}
	}
	if n := (&oomCounter{}).kills(); n != 0 {
		t.Errorf("%d kills without a counter, want 0", n)
	}
}

func TestOOMExplains(t *testing.T) {
	dir := t.TempDir()
	kill := shimapi.ExitStatus{Code: 137, Signal: int(unix.SIGKILL)}
	shell := shimapi.ExitStatus{Code: 137} // says that its child was killed
	for i, c := range []struct {
		stopped bool // the shim has sent SIGKILL after the first kill
		kills   int
		exit    shimapi.ExitStatus
		want    bool
	}{
		{false, 1, kill, true},
		{false, 1, shell, true},
		{false, 0, kill, false},
		{false, 1, shimapi.ExitStatus{Code: 1}, false},
		{true, 1, kill, false},
		{true, 2, kill, true},
		{true, 2, shell, false},
	} {
		counter := &oomCounter{own: filepath.Join(dir, "own")}
		if c.stopped {
			memoryEvents(t, dir, 1, -1)
			counter.noteKill()
		}
		memoryEvents(t, dir, c.kills, -1)
		if got := counter.explains(c.exit, counter.kills()); got != c.want {
			t.Errorf("case %d %+v: %v, want %v", i, c, got, c.want)
		}
	}
}
