package shims

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/shimapi"
)

func BenchmarkPod(b *testing.B) {
	n := newShimNode(b)
	n.pod()
	for b.Loop() {
		id := n.pod()
		b.StopTimer()
		if err := n.shim.RemovePod(n.ctx, id); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkContainer(b *testing.B) {
	n := newShimNode(b)
	pod := n.pod()
	for b.Loop() {
		b.StopTimer()
		r := n.request(pod, "sleep 1000")
		b.StartTimer()
		if _, err := n.shim.Create(n.ctx, r); err != nil {
			b.Fatal(err)
		}
		if err := n.shim.Start(n.ctx, r.ID); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := n.shim.Delete(n.ctx, r.ID); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkDelete(b *testing.B) {
	n := newShimNode(b)
	pod := n.pod()
	for b.Loop() {
		b.StopTimer()
		r := n.run(pod, "sleep 1000")
		b.StartTimer()
		if err := n.shim.Delete(n.ctx, r.ID); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkExec(b *testing.B) {
	n := newShimNode(b)
	r := n.run(n.pod(), "sleep 1000")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	for i := 0; b.Loop(); i++ {
		session, err := n.shim.Exec(n.ctx, &shimapi.ExecRequest{
			ID: r.ID, ExecID: fmt.Sprint(i), Process: &specs.Process{Args: []string{"/bin/true"}},
		}, []*os.File{null, null, null})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := session.Wait(n.ctx); err != nil {
			b.Fatal(err)
		}
		session.Close()
	}
}

// TestFootprint says what pods cost: the shim's own memory and each pause's.
func TestFootprint(t *testing.T) {
	const pods = 50
	n := newShimNode(t)
	sh, err := n.ForNewPod(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	sh.Release()
	empty := pss(sh.PID())
	var pauses, files int
	for range pods {
		pod := n.pod()
		n.run(pod, "exec sleep 1000")
		pauses += pss(n.podRecord(pod).PID)
	}
	full := pss(sh.PID())
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", sh.PID()))
	fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", sh.PID()))
	files = len(fds)
	t.Logf("shim empty %d KiB, with %d pods of one container %d KiB (%.1f KiB each), pause %.1f KiB each, %d files, %s",
		empty, pods, full, float64(full-empty)/pods, float64(pauses)/pods, files, status[len(status)-120:])
	if each := (full - empty + pauses) / pods; each > 300 {
		t.Errorf("a pod costs %d KiB", each)
	}
}

// TestShimKeepsNothing runs through lives of pods and containers, good and bad,
// and counts what the shim still has open.
func TestShimKeepsNothing(t *testing.T) {
	n := newShimNode(t)
	keep := n.pod()
	files := func() (names []string) {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.shim.PID()))
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			// libcontainer leaves one to the garbage collector after a failed start.
			if name, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", n.shim.PID(), fd.Name())); !strings.Contains(name, "exec.fifo") {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	life := func() {
		pod := n.pod()
		ended := n.run(pod, "true", terminal)
		n.exit(ended)
		attached := n.run(pod, "sleep 1000", withStdin(true))
		c := n.attachTo(attached)
		if _, _, err := n.exec(attached, 0, "none"); err == nil {
			t.Error("a missing command was executed")
		}
		if _, _, err := n.exec(attached, 0, "true"); err != nil {
			t.Error(err)
		}
		created := n.request(pod, "true")
		if _, err := n.shim.Create(n.ctx, created); err != nil {
			t.Error(err)
		}
		failing := n.request(pod, "", func(_ *shimapi.CreateRequest, s *specs.Spec) { s.Process.Args = []string{"/none"} })
		if _, err := n.shim.Create(n.ctx, failing); err == nil {
			t.Error("a missing command was executed")
		}
		for _, r := range []*shimapi.CreateRequest{ended, attached, created, failing} {
			if err := n.shim.Delete(n.ctx, r.ID); err != nil {
				t.Error(err)
			}
		}
		if err := c.Wait(n.ctx); err != nil {
			t.Error(err)
		}
		c.Close()
		if err := n.shim.RemovePod(n.ctx, pod); err != nil {
			t.Error(err)
		}
	}
	life()
	var before []string
	eventually(t, "calls have ended", func() bool { was := before; before = files(); return len(was) == len(before) })
	defer func() {
		if t.Failed() {
			t.Logf("open before: %q\nopen after: %q", before, files())
		}
	}()
	for range 5 {
		life()
	}
	eventually(t, "the shim has as many files as before", func() bool { return len(files()) <= len(before) })
	if _, err := n.shim.Ping(n.ctx); err != nil || n.podRecord(keep).PID == 0 {
		t.Error(err)
	}
}
