package shim_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/test/shimnode"
)

// execFifo is the path of the fifo that a created container waits at.
func execFifo(n *shimnode.Node, id string) string {
	return filepath.Join(n.Config.StateDir, "shims", n.Shim.ID(), "state", id, "exec.fifo")
}

// TestShimDiesAtExecFifo: a reader of the fifo that is closed before the first process
// writes, as the kernel does for a shim that is killed, does not end the container.
func TestShimDiesAtExecFifo(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	for name, user := range map[string]uint32{"root": 0, "another user": 1000} {
		t.Run(name, func(t *testing.T) {
			r := n.Request(pod, "ls -l /proc/self/fd; exit 7", func(_ *shimapi.CreateRequest, s *specs.Spec) { s.Process.User.UID = user })
			if _, err := n.Shim.Create(n.Ctx, r); err != nil {
				t.Fatal(err)
			}
			for range 20 { // the process reaches the fifo a little after Create returns
				fd, err := unix.Open(execFifo(n, r.ID), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
				if err = errors.Join(err, unix.Close(fd)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Millisecond)
			}
			if err := n.Shim.Start(n.Ctx, r.ID); err != nil {
				t.Fatal(err)
			}
			if rec := n.Exit(r); rec.ExitCode != 7 {
				t.Errorf("the container has ended with %d, reason %q %q", rec.ExitCode, rec.Reason, rec.Message)
			}
			if out := n.Output(r); strings.Contains(out, "exec.fifo") {
				t.Errorf("the command has the fifo:\n%s", out)
			}
		})
	}
}

// TestStartAgainAfterShimDied: the shim dies when it has emptied the fifo, before it has
// recorded the start. Its replacement starts the container again, which has no effect.
func TestStartAgainAfterShimDied(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	r := n.Request(pod, "echo once; while :; do sleep 1; done")
	if _, err := n.Shim.Create(n.Ctx, r); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(execFifo(n, r.ID), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if read, err := unix.Read(fd, make([]byte, 64<<10)); read == 0 || err != nil {
		t.Fatalf("%d bytes in the fifo, %v", read, err)
	}
	n.KillShim()
	var refusal *shimapi.Error // the replacement has seen the command run already
	if err := n.Shim.Start(n.Ctx, r.ID); err != nil && (!errors.As(err, &refusal) || refusal.Kind != shimapi.KindNotRunning) {
		t.Fatal(err)
	}
	n.Seen.Await(t, shimapi.EventStarted, r.ID)
	shimnode.Eventually(t, "the command has printed", func() bool { return shimnode.LogSize(r) > 0 })
	if err := n.Shim.Kill(n.Ctx, &shimapi.KillRequest{ID: r.ID, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if rec := n.Exit(r); rec.ExitCode != 137 {
		t.Errorf("the container has ended with %d, reason %q %q", rec.ExitCode, rec.Reason, rec.Message)
	}
	if out := n.Output(r); out != "once\n" {
		t.Errorf("output %q", out)
	}
}
