package sandbox

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/oci/atomicfile"
	"berth/sandbox/record"
)

func imageMount(at, image, sub string) *runtimeapi.Mount {
	return &runtimeapi.Mount{ContainerPath: at, Image: &runtimeapi.ImageSpec{Image: image}, ImageSubPath: sub}
}

// Images as volumes are mounted, held, recorded and told, and go with the container.
func TestImageVolumesOfAContainer(t *testing.T) {
	n := newFakeNode(t)
	pod, host := n.pod("a"), t.TempDir()
	cfg := containerConfig("c")
	cfg.Mounts = []*runtimeapi.Mount{imageMount("/models", "model", ""), {ContainerPath: "/host", HostPath: host}, imageMount("/data", "data", "")}
	id, err := n.m.CreateContainer(t.Context(), pod, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	images := filepath.Join(n.state, "containers", id, "images")
	for _, want := range []string{filepath.Join(images, "0"), filepath.Join(images, "2")} {
		if !slices.Contains(n.images.mounted, want) {
			t.Errorf("%s is not among the mounts %v", want, n.images.mounted)
		}
	}
	if got := n.images.held[id]; !slices.Equal(got, []string{"layer-busybox", "layer-model", "layer-data"}) {
		t.Errorf("held layers %v", got)
	}
	st := n.container(id)
	if m := st.Mounts[0]; !m.GetReadonly() || m.GetImage().GetImageRef() != "sha256:model" {
		t.Errorf("the status tells of %v", m)
	}
	if m := st.Mounts[1]; m.GetReadonly() || m.GetHostPath() != host {
		t.Errorf("the status tells of %v", m)
	}
	var spec specs.Spec
	if err := json.Unmarshal(n.shim.creates[0].Spec, &spec); err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, m := range spec.Mounts {
		if slices.Contains([]string{"/models", "/host", "/data"}, m.Destination) {
			order = append(order, m.Destination)
		}
	}
	if !slices.Equal(order, []string{"/models", "/host", "/data"}) {
		t.Errorf("mounts in the order %v, want that of the configuration", order)
	}
	n.restart()
	if got := n.images.held[id]; len(got) != 3 {
		t.Errorf("held after a restart: %v", got)
	}
	if err := n.m.RemoveContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if len(n.images.mounted)+len(n.images.held) > 0 {
		t.Errorf("left: mounted %v, held %v", n.images.mounted, n.images.held)
	}
}

func TestImageVolumesThatAreRefused(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	for name, tt := range map[string]struct {
		mount  *runtimeapi.Mount
		want   error
		volume bool // the mount of an image fails, not the request
	}{
		"an unknown image":  {imageMount("/v", "missing", ""), ErrNotFound, true},
		"a path outside":    {imageMount("/v", "data", "../x"), ErrInvalid, false},
		"a missing path":    {imageMount("/v", "data", "none"), ErrInvalid, true},
		"of the host, too":  {&runtimeapi.Mount{ContainerPath: "/v", HostPath: "/", Image: &runtimeapi.ImageSpec{Image: "data"}}, ErrInvalid, false},
		"a host path alone": {&runtimeapi.Mount{ContainerPath: "/v", HostPath: "/nonexistent"}, ErrInvalid, false},
	} {
		cfg := containerConfig("c")
		cfg.Mounts = []*runtimeapi.Mount{tt.mount}
		_, err := n.m.CreateContainer(t.Context(), pod, cfg, nil)
		wantError(t, name, err, tt.want)
		if errors.Is(err, ErrImageVolume) != tt.volume {
			t.Errorf("%s: %v is one of an image volume: %v", name, err, !tt.volume)
		}
		if len(n.images.mounted)+len(n.images.held) > 0 {
			t.Errorf("%s: mounted %v, held %v", name, n.images.mounted, n.images.held)
		}
	}
}

func TestInOrder(t *testing.T) {
	m := func(at string) oci.Mount { return oci.Mount{Mount: &runtimeapi.Mount{ContainerPath: at}} }
	cfg := &runtimeapi.ContainerConfig{Mounts: []*runtimeapi.Mount{imageMount("/a", "x", ""), {ContainerPath: "/b"}, imageMount("/c", "y", "")}}
	var got []string
	for _, mt := range inOrder(cfg, []oci.Mount{m("/b")}, []oci.Mount{m("/a"), m("/c")}) {
		got = append(got, mt.ContainerPath)
	}
	if strings.Join(got, " ") != "/a /b /c" {
		t.Errorf("order %v", got)
	}
}

// A container of a pod gets the files and the namespaces of that pod.
func TestTheSpecIsOfThePod(t *testing.T) {
	n := newFakeNode(t)
	pod := n.networked("a")
	cfg := containerConfig("c")
	cfg.LogPath = "c/0.log"
	cfg.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	id, err := n.m.CreateContainer(t.Context(), pod, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := n.shim.creates[0]
	var spec specs.Spec
	if err := json.Unmarshal(r.Spec, &spec); err != nil {
		t.Fatal(err)
	}
	sources := map[string]string{}
	for _, m := range spec.Mounts {
		sources[m.Destination] = m.Source
	}
	for at, want := range map[string]string{
		"/etc/hosts": filepath.Join(n.podDirOf(pod), "hosts"), "/etc/hostname": filepath.Join(n.podDirOf(pod), "hostname"),
		"/etc/resolv.conf": filepath.Join(n.podDirOf(pod), "resolv.conf"), "/dev/shm": filepath.Join(n.state, "pods", pod, "shm"),
	} {
		if sources[at] != want {
			t.Errorf("%s comes from %s, want %s", at, sources[at], want)
		}
	}
	if spec.Root.Path != filepath.Join(n.state, "containers", id, "rootfs") || !strings.HasPrefix(spec.Linux.CgroupsPath, "/berth-"+pod[:13]+"/") {
		t.Errorf("root %s, cgroup %s", spec.Root.Path, spec.Linux.CgroupsPath)
	}
	var rec record.Container
	if err := atomicfile.Read(filepath.Join(n.podDirOf(pod), "containers", id, record.ContainerFile), &rec); err != nil {
		t.Fatal(err)
	}
	var stages []string
	for _, s := range rec.Took {
		stages = append(stages, s.Stage)
	}
	if !slices.Equal(stages, []string{"rootfs", "spec", "create"}) || rec.Intent != record.Ready {
		t.Errorf("stages %v, intent %s", stages, rec.Intent)
	}
}

// A container's log goes below the directory of its pod's logs.
func TestLogPathIsBelowThePods(t *testing.T) {
	n := newFakeNode(t)
	pod := podConfig("a")
	pod.LogDirectory = t.TempDir()
	podID, err := n.m.RunPod(t.Context(), pod, "")
	if err != nil {
		t.Fatal(err)
	}
	cfg := containerConfig("c")
	cfg.LogPath, cfg.Stdin, cfg.StdinOnce = "c/0.log", true, true
	id, err := n.m.CreateContainer(t.Context(), podID, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := n.shim.creates[0]
	if want := filepath.Join(pod.LogDirectory, "c/0.log"); r.LogPath != want || r.LogRoot != pod.LogDirectory || n.container(id).LogPath != want || !r.Stdin || !r.StdinOnce {
		t.Errorf("the shim was asked for %+v", r)
	}
}

// Volumes that an image declares exist to be written; with a read-only root each is a
// mount.
func TestDeclaredVolumesOfAContainer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: can't give a directory to the container's root")
	}
	n := newFakeNode(t)
	n.images.config.Volumes = map[string]struct{}{"/data": {}}
	pod := n.pod("a")
	cfg := containerConfig("c")
	cfg.Linux.SecurityContext.ReadonlyRootfs = true
	id, err := n.m.CreateContainer(t.Context(), pod, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(n.state, "containers", id, "rootfs", "data")
	if !exists(source) || !strings.Contains(string(n.shim.creates[0].Spec), source) {
		t.Errorf("%s was not made or is not mounted", source)
	}
	if err := os.RemoveAll(source); err != nil { // as the unmount of the layers would
		t.Fatal(err)
	}
}
