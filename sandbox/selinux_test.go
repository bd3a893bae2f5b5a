package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/selinux/go-selinux"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
)

// testLabels are those of the usual policies.
var testLabels = oci.Labels{Process: "system_u:system_r:container_t:s0", File: "system_u:object_r:container_file_t:s0"}

// onSELinux makes the fake node one with SELinux.
func onSELinux(t *testing.T) *fakeNode {
	t.Helper()
	n := newFakeNode(t)
	n.host.SELinux, n.host.Labels = true, testLabels
	n.restart()
	return n
}

// level is the level that the record on disk gives a pod.
func (n *fakeNode) level(pod string) string {
	n.t.Helper()
	var rec podRecord
	if err := readOwn(n.t.Context(), filepath.Join(n.podDirOf(pod), "pod.json"), &rec); err != nil {
		n.t.Fatal(err)
	}
	return rec.SELinuxLevel
}

// Each pod has a level of its own, which the next daemon still knows as taken and which
// goes with the pod.
func TestLevelsOfPods(t *testing.T) {
	n := onSELinux(t)
	a, b := n.pod("a"), n.pod("b")
	la, lb := n.level(a), n.level(b)
	if la == lb || !strings.HasPrefix(la, "s0:c") || !strings.HasPrefix(lb, "s0:c") {
		t.Fatalf("the levels are %q and %q", la, lb)
	}
	taken := func(level string, want int) {
		t.Helper()
		n.m.index.mu.Lock()
		defer n.m.index.mu.Unlock()
		if got := n.m.index.levels[level]; got != want {
			t.Errorf("%s is taken %d times, want %d", level, got, want)
		}
	}
	n.restart()
	taken(la, 1)
	taken(lb, 1)
	// One that asks for the level of another pod gets it, and does not take it along.
	cfg := podConfig("c")
	cfg.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Level: la}
	c, err := n.m.RunPod(t.Context(), cfg, "")
	if err != nil {
		t.Fatal(err)
	}
	taken(la, 2)
	if err := n.m.RemovePod(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	taken(la, 1)
	cfg.Linux.SecurityContext.SelinuxOptions.Level = "s0,uid=0"
	_, err = n.m.RunPod(t.Context(), cfg, "")
	wantError(t, "a level that is none", err, ErrInvalid)
	taken("s0,uid=0", 0)
	if err := n.m.RemovePod(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	taken(la, 0)
	if len(n.m.index.levels) != 1 {
		t.Errorf("taken are %v", n.m.index.levels)
	}
}

// No two levels are the same, also when half of all pairs are taken.
func TestLevelsAreUnique(t *testing.T) {
	h := testHost()
	h.SELinux, h.Labels = true, testLabels
	ix := newIndex()
	for range categories * (categories - 1) / 4 {
		level, _, err := ix.takeLevel(&runtimeapi.PodSandboxConfig{}, h)
		if err != nil {
			t.Fatal(err)
		}
		if ix.levels[level] != 1 {
			t.Fatalf("%s is given twice", level)
		}
	}
}

// A volume gets the label of its container only where the mount asks for it and the
// container is confined.
func TestRelabel(t *testing.T) {
	n := onSELinux(t)
	pod := n.pod("a")
	volume := func(name string) string {
		dir := t.TempDir()
		if err := errors.Join(os.Mkdir(dir+"/d", 0o700), os.WriteFile(dir+"/d/"+name, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	asks, silent, open := volume("f"), volume("f"), volume("f")
	if err := selinux.Chcon(asks, testLabels.File, false); err != nil {
		t.Skipf("labels can't be set here: %v", err)
	}
	for name, change := range map[string]func(*runtimeapi.ContainerConfig){
		"confined": func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/a", HostPath: asks, SelinuxRelabel: true}, {ContainerPath: "/s", HostPath: silent}}
		},
		"of spc_t": func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Type: "spc_t"}
			c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/a", HostPath: open, SelinuxRelabel: true}}
		},
	} {
		cfg := containerConfig(name)
		cfg.Linux.SecurityContext.NamespaceOptions.Ipc = runtimeapi.NamespaceMode_POD
		change(cfg)
		if _, err := n.m.CreateContainer(t.Context(), pod, cfg, podConfig("a")); err != nil {
			t.Fatal(err)
		}
	}
	want := "system_u:object_r:container_file_t:" + n.level(pod)
	for file, labelled := range map[string]bool{asks: true, asks + "/d/f": true, silent: false, silent + "/d/f": false, open: false, open + "/d/f": false} {
		if got, err := selinux.LfileLabel(file); (got == want) != labelled {
			t.Errorf("%s has the label %q, %v; the container's is %s", file, got, err, want)
		}
	}
	for _, path := range []string{"/", "/etc", "/usr"} {
		cfg := containerConfig("of the machine")
		cfg.Linux.SecurityContext.NamespaceOptions.Ipc = runtimeapi.NamespaceMode_POD
		cfg.Mounts = []*runtimeapi.Mount{{ContainerPath: "/m", HostPath: path, SelinuxRelabel: true}}
		_, err := n.m.CreateContainer(t.Context(), pod, cfg, podConfig("a"))
		wantError(t, path, err, ErrInvalid)
	}
}
