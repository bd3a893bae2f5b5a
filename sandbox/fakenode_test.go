package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/oci/shims"
	"berth/sandbox/inflight"
)

// fakeNode is a node in a temporary directory: the domain on a fakeShim, fakeImages and
// a fakeNetwork. It needs no privilege.
type fakeNode struct {
	t           *testing.T
	root, state string
	shim        *fakeShim
	images      *fakeImages
	network     *fakeNetwork
	shims       *shims.Set
	calls       *inflight.Calls
	mounts      *fakeMounts
	plugins     Plugins
	host        oci.Host
	m           *Runtime
	stop        context.CancelFunc // ends the daemon's work on the shims' events
}

func newFakeNode(t *testing.T) *fakeNode {
	t.Helper()
	n := &fakeNode{t: t, root: t.TempDir(), images: &fakeImages{}, network: &fakeNetwork{}, mounts: &fakeMounts{}, host: testHost()}
	// The path of a socket has at most 107 bytes, and the test's own directory more.
	var err error
	if n.state, err = os.MkdirTemp("", "berth-sb-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(n.state) })
	n.shim = startFakeShim(t, n.state, "s1")
	n.begin()
	t.Cleanup(n.end)
	return n
}

// begin starts a daemon on what is on disk.
func (n *fakeNode) begin() {
	n.t.Helper()
	if err := n.tryBegin(); err != nil {
		n.t.Fatal(err)
	}
	<-n.m.Settled()
}

// tryBegin is begin for a daemon that may fail to recover what is on disk.
func (n *fakeNode) tryBegin() error {
	n.t.Helper()
	ctx := n.open()
	return n.m.Recover(ctx)
}

// open makes a daemon that has recovered nothing yet. The context ends with it.
func (n *fakeNode) open() context.Context {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	var err error
	if n.shims, err = shims.Open(ctx, shims.Config{Binary: "/nonexistent/berth-shim", StateDir: n.state, Version: "test"}); err != nil {
		n.t.Fatal(err)
	}
	n.calls = inflight.New()
	n.m, err = New(Options{
		Calls: n.calls,
		Root:  n.root, State: n.state, Images: n.images, Network: n.network, Mounts: n.mounts, Shims: n.shims, Plugins: n.plugins,
		Host:     n.host,
		Handlers: fakeHandlers{"other": {}}, StopTimeout: time.Second,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return ctx
}

func (n *fakeNode) end() {
	n.stop()
	if err := n.shims.Close(); err != nil {
		n.t.Error(err)
	}
}

// restart replaces the daemon; between says what happens while none runs.
func (n *fakeNode) restart(between ...func()) {
	n.t.Helper()
	n.end()
	for _, f := range between {
		f()
	}
	n.begin()
}

// fakeHandlers are runtime handlers by name.
type fakeHandlers map[string]Handler

// Handler implements [Handlers].
func (f fakeHandlers) Handler(_ context.Context, name string) (Handler, error) {
	h, ok := f[name]
	if !ok {
		return h, failed(ErrInvalid, "no handler %q", name)
	}
	return h, nil
}

// testHost is a node of cgroup v2 with all controllers.
func testHost() oci.Host {
	return oci.Host{
		CgroupV2: true, Hostname: "node", Arch: "amd64", LowerOOM: true, Kernel: [2]int{6, 1},
		Controllers: map[string]bool{"cpu": true, "memory": true, "pids": true, "cpuset": true, "hugetlb": true, "io": true},
	}
}

// podConfig is a pod of the host's network and IPC, which needs no mount.
func podConfig(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "ns", Uid: "uid-" + name},
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: nsNode, Ipc: nsNode, Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}
}

func containerConfig(name string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: "busybox"},
		Command:  []string{"/bin/true"},
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Network: nsNode, Ipc: nsNode, Pid: runtimeapi.NamespaceMode_CONTAINER},
			},
		},
	}
}

func (n *fakeNode) pod(name string) string {
	n.t.Helper()
	id, err := n.m.RunPod(n.t.Context(), podConfig(name), "")
	if err != nil {
		n.t.Fatal(err)
	}
	return id
}

func (n *fakeNode) create(pod, name string) string {
	n.t.Helper()
	id, err := n.m.CreateContainer(n.t.Context(), pod, containerConfig(name), nil)
	if err != nil {
		n.t.Fatal(err)
	}
	return id
}

// run creates a container and starts it.
func (n *fakeNode) run(pod, name string) string {
	n.t.Helper()
	id := n.create(pod, name)
	if err := n.m.StartContainer(n.t.Context(), id); err != nil {
		n.t.Fatal(err)
	}
	return id
}

func (n *fakeNode) container(id string) *ContainerStatus {
	n.t.Helper()
	st, err := n.m.Container(id)
	if err != nil {
		n.t.Fatal(err)
	}
	return st
}

func (n *fakeNode) podStatus(id string) *PodStatus {
	n.t.Helper()
	st, err := n.m.Pod(id)
	if err != nil {
		n.t.Fatal(err)
	}
	return st
}

// await waits until a condition holds that another goroutine makes true.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come true in 10 s", what)
		}
	}
}

// wantNothing tells of what is left below a directory.
func wantNothing(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("%s holds %v, %v; want nothing", dir, left, err)
	}
}

func wantError(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}

// fakeImages has every image but "missing"; it mounts nothing.
type fakeImages struct {
	mu      sync.Mutex
	held    map[string][]string
	mounted []string
	mount   error // what the next mounts fail with
	config  ocispec.ImageConfig
}

func (f *fakeImages) Resolve(ref string) (Image, error) {
	if ref == "missing" {
		return Image{}, fmt.Errorf("image %q: %w", ref, ErrNotFound)
	}
	return Image{ID: "sha256:" + ref, Digest: "registry.test/" + ref + "@sha256:1", Config: f.config, Layers: []string{"layer-" + ref}}, nil
}

func (f *fakeImages) Hold(key string, layers []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held == nil {
		f.held = map[string][]string{}
	}
	f.held[key] = layers
	return nil
}

func (f *fakeImages) Release(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.held, key)
}

func (f *fakeImages) Mount(_ context.Context, r RootfsRequest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mount != nil {
		return f.mount
	}
	f.mounted = append(f.mounted, r.Target)
	return nil
}

func (f *fakeImages) Unmount(target string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mounted = slices.DeleteFunc(f.mounted, func(m string) bool { return m == target })
	return nil
}

// fakeNetwork gives every pod the same addresses.
type fakeNetwork struct {
	mu       sync.Mutex
	ready    error
	attach   error
	detach   error
	attached []string // IDs of pods
	forgone  []string
}

func (f *fakeNetwork) Ready() error { return f.ready }

func (f *fakeNetwork) Attach(_ context.Context, p PodNetwork) (NetworkResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.attach != nil {
		return NetworkResult{}, f.attach
	}
	f.attached = append(f.attached, p.PodID)
	return NetworkResult{IPs: []string{"10.1.0.2", "fd00::2"}}, nil
}

func (f *fakeNetwork) Detach(_ context.Context, p PodNetwork) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.detach != nil {
		return f.detach
	}
	f.attached = slices.DeleteFunc(f.attached, func(id string) bool { return id == p.PodID })
	return nil
}

func (f *fakeNetwork) Forgo(_ context.Context, p PodNetwork) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgone = append(f.forgone, p.PodID)
	return nil
}

// fakeMounts notes what is mounted.
type fakeMounts struct {
	mu      sync.Mutex
	mounted map[string]string // options or the namespace, by path
}

func (f *fakeMounts) MountShm(path, options string) error { return f.note(path, options) }

func (f *fakeMounts) PinNamespace(ns *os.File, path string) error { return f.note(path, ns.Name()) }

func (f *fakeMounts) note(path, what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mounted == nil {
		f.mounted = map[string]string{}
	}
	f.mounted[path] = what
	return nil
}

func (f *fakeMounts) Unmount(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.mounted, path)
	return nil
}

// podDirOf is the directory of a pod's record.
func (n *fakeNode) podDirOf(pod string) string { return filepath.Join(n.root, "pods", pod) }
