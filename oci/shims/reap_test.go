package shims

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// A descriptor that can't be looked at, here a link to itself for a lack of descriptors, may be
// the pidfd of the child in question, which then is not to be reaped.
func TestAChildThatMayBeAwaitedIsNotReaped(t *testing.T) {
	for name, c := range map[string]struct {
		make func(fdinfo string) error
		want bool
	}{
		"of the child":   {func(p string) error { return os.WriteFile(p, []byte("pos:\t0\nPid:\t42\n"), 0o600) }, true},
		"of another":     {func(p string) error { return os.WriteFile(p, []byte("pos:\t0\nPid:\t4\n"), 0o600) }, false},
		"closed":         {func(string) error { return nil }, false},
		"not to be read": {func(p string) error { return os.Symlink(p, p) }, true},
	} {
		proc := t.TempDir()
		for _, dir := range []string{"fd", "fdinfo"} {
			if err := os.Mkdir(filepath.Join(proc, dir), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("anon_inode:[pidfd]", filepath.Join(proc, "fd", "5")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/dev/null", filepath.Join(proc, "fd", "6")); err != nil {
			t.Fatal(err)
		}
		if err := c.make(filepath.Join(proc, "fdinfo", "5")); err != nil {
			t.Fatal(err)
		}
		if got := mayHold(proc, 42); got != c.want {
			t.Errorf("%s: the process may await it: %v, want %v", name, got, c.want)
		}
	}
}

// The status of a child, and the end of a shim, are seen also by a pidfd that Go's poller did
// not accept. One that blocks stands for it.
func TestEndsAreSeenWithoutThePoller(t *testing.T) {
	set := &Set{}
	set.ctx = t.Context()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pidfd := func() *os.File {
		fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), "pidfd")
	}
	p := &process{shim: set.newShim("s"), gone: make(chan struct{})}
	over := make(chan struct{})
	watched := pidfd()
	go func() {
		defer close(over)
		p.awaitEnd(watched)
	}()
	statuses := make(chan shimapi.ExitStatus, 1)
	child := pidfd()
	defer child.Close()
	go func() {
		status, ok := set.reap(child)
		if !ok {
			status.Code = -1
		}
		statuses <- status
	}()
	select {
	case <-over:
		t.Errorf("the watch of a shim has ended before it; its end is seen: %v", p.isGone())
	case status := <-statuses:
		t.Errorf("the status is %+v while the child runs", status)
		statuses <- status
	case <-time.After(300 * time.Millisecond):
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if status := <-statuses; status.Code != 0 {
		t.Errorf("the status: %+v, want code 0", status)
	}
	if <-over; !p.isGone() {
		t.Error("the end of the shim is not seen")
	}
}
