package shim_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/shimapi"
	"berth/test/shimnode"
)

func BenchmarkPod(b *testing.B) {
	n := shimnode.New(b)
	n.Pod()
	for b.Loop() {
		id := n.Pod()
		b.StopTimer()
		if err := n.Shim.RemovePod(n.Ctx, id); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkContainer(b *testing.B) {
	n := shimnode.New(b)
	pod := n.Pod()
	for b.Loop() {
		b.StopTimer()
		r := n.Request(pod, "sleep 1000")
		b.StartTimer()
		if _, err := n.Shim.Create(n.Ctx, r); err != nil {
			b.Fatal(err)
		}
		if err := n.Shim.Start(n.Ctx, r.ID); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := n.Shim.Delete(n.Ctx, r.ID); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkDelete(b *testing.B) {
	n := shimnode.New(b)
	pod := n.Pod()
	for b.Loop() {
		b.StopTimer()
		r := n.Run(pod, "sleep 1000")
		b.StartTimer()
		if err := n.Shim.Delete(n.Ctx, r.ID); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkExec(b *testing.B) {
	n := shimnode.New(b)
	r := n.Run(n.Pod(), "sleep 1000")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	for i := 0; b.Loop(); i++ {
		session, err := n.Shim.Exec(n.Ctx, &shimapi.ExecRequest{
			ID: r.ID, ExecID: fmt.Sprint(i), Process: &specs.Process{Args: []string{"/bin/true"}},
		}, []*os.File{null, null, null})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := session.Wait(n.Ctx); err != nil {
			b.Fatal(err)
		}
		session.Close()
	}
}

// TestFootprint measures the memory of the shim and of the pause processes, and bounds what
// a pod costs.
func TestFootprint(t *testing.T) {
	const pods = 50
	n := shimnode.New(t)
	sh, err := n.ForNewPod(n.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	sh.Release()
	empty := shimnode.PSS(sh.PID())
	var pauses, files int
	for range pods {
		pod := n.Pod()
		n.Run(pod, "exec sleep 1000")
		pauses += shimnode.PSS(n.PodRecord(pod).PID)
	}
	full := shimnode.PSS(sh.PID())
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", sh.PID()))
	fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", sh.PID()))
	files = len(fds)
	t.Logf("shim empty %d KiB, with %d pods of one container %d KiB (%.1f KiB each), pause %.1f KiB each, %d files, %s",
		empty, pods, full, float64(full-empty)/pods, float64(pauses)/pods, files, status[len(status)-120:])
	if each := (full - empty + pauses) / pods; each > 300 {
		t.Errorf("a pod costs %d KiB", each)
	}
}

// TestShimKeepsNothing makes and removes pods and containers, also some that fail. The shim
// may have no more files open afterwards than before.
func TestShimKeepsNothing(t *testing.T) {
	n := shimnode.New(t)
	keep := n.Pod()
	files := func() (names []string) {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.Shim.PID()))
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			// libcontainer leaves one to the garbage collector after a failed start.
			if name, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", n.Shim.PID(), fd.Name())); !strings.Contains(name, "exec.fifo") {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	life := func() {
		pod := n.Pod()
		ended := n.Run(pod, "true", shimnode.Terminal)
		n.Exit(ended)
		attached := n.Run(pod, "sleep 1000", shimnode.WithStdin(true))
		c := n.Attach(attached)
		if _, _, err := n.Exec(attached, 0, "none"); err == nil {
			t.Error("a missing command was executed")
		}
		if _, _, err := n.Exec(attached, 0, "true"); err != nil {
			t.Error(err)
		}
		created := n.Request(pod, "true")
		if _, err := n.Shim.Create(n.Ctx, created); err != nil {
			t.Error(err)
		}
		failing := n.Request(pod, "", func(_ *shimapi.CreateRequest, s *specs.Spec) { s.Process.Args = []string{"/none"} })
		if _, err := n.Shim.Create(n.Ctx, failing); err == nil {
			t.Error("a missing command was executed")
		}
		for _, r := range []*shimapi.CreateRequest{ended, attached, created, failing} {
			if err := n.Shim.Delete(n.Ctx, r.ID); err != nil {
				t.Error(err)
			}
		}
		if err := c.Wait(n.Ctx); err != nil {
			t.Error(err)
		}
		c.Close()
		if err := n.Shim.RemovePod(n.Ctx, pod); err != nil {
			t.Error(err)
		}
	}
	life()
	var before []string
	shimnode.Eventually(t, "calls have ended", func() bool { was := before; before = files(); return len(was) == len(before) })
	defer func() {
		if t.Failed() {
			t.Logf("open before: %q\nopen after: %q", before, files())
		}
	}()
	for range 5 {
		life()
	}
	shimnode.Eventually(t, "the shim has as many files as before", func() bool { return len(files()) <= len(before) })
	if _, err := n.Shim.Ping(n.Ctx); err != nil || n.PodRecord(keep).PID == 0 {
		t.Error(err)
	}
}
