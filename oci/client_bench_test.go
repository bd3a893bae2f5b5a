package oci

import (
	"fmt"
	"os"
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
	defer null.Close() //nolint:errcheck // benchmark
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
	if _, err := n.ForNewPod(n.ctx); err != nil {
		t.Fatal(err)
	}
	sh := n.Shims.withRoom()
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
