package sandbox

import (
	"path/filepath"
	"slices"
	"testing"

	"berth/oci"
	"berth/sandbox/record"
)

// The image of the container that stands for a foreign pod is kept by each daemon that finds
// the pod, in the version that the pod was made with, until the pod is stopped.
func TestSandboxImageIsHeld(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	s := n.m.index.podByID(pod)
	foreign := &record.Runtime{Shim: "/nonexistent", Image: "pause"}
	if err := s.change(inMemory, func(rec *podRecord) { rec.Runtime = foreign }); err != nil {
		t.Fatal(err)
	}
	n.images.config.Cmd = []string{"/pause"}
	if err := n.m.mountSandboxImage(t.Context(), s, &oci.SandboxProcess{}); err != nil {
		t.Fatal(err)
	}
	if err := s.change(written, func(*podRecord) {}); err != nil { // as the end of acquire does
		t.Fatal(err)
	}
	want := []string{"layer-pause"}
	if got := n.images.held[pod]; !slices.Equal(got, want) {
		t.Errorf("held: %q, want %q", got, want)
	}
	n.restart(func() {
		n.images.held = nil
		edit(t, filepath.Join(n.podDirOf(pod), record.PodFile), func(rec map[string]any) {
			rec["runtime"].(map[string]any)["image"] = "moved" // as a tag may
		})
	})
	if got := n.images.held[pod]; !slices.Equal(got, want) {
		t.Errorf("held after a restart: %q, want %q", got, want)
	}
	if err := n.m.StopPod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	n.restart()
	if got := n.images.held[pod]; got != nil {
		t.Errorf("held of a stopped pod: %q", got)
	}
}
