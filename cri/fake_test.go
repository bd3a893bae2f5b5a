package cri

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/image"
	"berth/sandbox"
	"berth/sandbox/inflight"
)

// fake is the domain and the image store: records in maps, and a hook for each
// verb that a test wants to hold up, break or watch.
type fake struct {
	mu         sync.Mutex
	pods       []*sandbox.PodStatus
	containers []*sandbox.ContainerStatus
	images     []*image.Image
	rawConfig  []byte           // of every image
	counted    *sandbox.Counted // nil: all
	calls      map[string]int

	hook   func(ctx context.Context, verb string) error
	exec   func(ctx context.Context, id string, cmd []string, s sandbox.Streams) (int, error)
	result sandbox.ExecResult
	events chan sandbox.Event
	ready  error

	inflight *inflight.Calls
}

func newFake() *fake {
	return &fake{calls: map[string]int{}, events: make(chan sandbox.Event, 16), inflight: inflight.New()}
}

func (f *fake) call(ctx context.Context, verb string) error {
	f.mu.Lock()
	f.calls[verb]++
	hook := f.hook
	f.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(ctx, verb)
}

// Subject knows no one: package containerdview has tests of its own.
func (f *fake) Subject(id string) (*sandbox.Subject, error) {
	return nil, fmt.Errorf("%s: %w", id, sandbox.ErrNotFound)
}

func (f *fake) nextID(n int) string { return fmt.Sprintf("%064x", n+0xa0) }

func (f *fake) RunPod(ctx context.Context, cfg *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	if err := f.call(ctx, "RunPod"); err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := &sandbox.PodStatus{ID: f.nextID(len(f.pods)), Config: cfg, Handler: handler, CreatedAt: time.Unix(100, 0), IPs: []string{"10.1.0.2", "fd00::2"}, PID: 7, NetNS: "/n"}
	f.pods = append(f.pods, p)
	return p.ID, nil
}

// StopPod and RemovePod are among the calls in flight, as the domain's are.
func (f *fake) StopPod(ctx context.Context, id string) error {
	_, err := f.inflight.Do(ctx, inflight.Call{Name: "StopPodSandbox of " + id}, func(ctx context.Context) (string, error) {
		return "", f.call(ctx, "StopPod")
	})
	return err
}

func (f *fake) RemovePod(ctx context.Context, id string) error {
	_, err := f.inflight.Do(ctx, inflight.Call{Name: "RemovePodSandbox of " + id}, func(ctx context.Context) (string, error) {
		return "", f.call(ctx, "RemovePod")
	})
	return err
}

func (f *fake) UpdatePodResources(ctx context.Context, _ string, _, _ *runtimeapi.LinuxContainerResources) error {
	return f.call(ctx, "UpdatePodResources")
}

func (f *fake) CreateContainer(ctx context.Context, podID string, cfg *runtimeapi.ContainerConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	if err := f.call(ctx, "CreateContainer"); err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &sandbox.ContainerStatus{ID: f.nextID(len(f.containers) + 16), PodID: podID, Config: cfg, CreatedAt: time.Unix(200, 0), ImageID: "sha256:" + strings.Repeat("1", 64)}
	f.containers = append(f.containers, c)
	return c.ID, nil
}

func (f *fake) StartContainer(ctx context.Context, id string) error {
	if err := f.call(ctx, "StartContainer"); err != nil {
		return err
	}
	f.set(id, runtimeapi.ContainerState_CONTAINER_RUNNING)
	return nil
}

func (f *fake) set(id string, s runtimeapi.ContainerState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, c := range f.containers {
		if c.ID == id {
			next := *c
			next.State = s
			f.containers[i] = &next
		}
	}
}

func (f *fake) StopContainer(ctx context.Context, _ string, _ time.Duration) error {
	return f.call(ctx, "StopContainer")
}
func (f *fake) RemoveContainer(ctx context.Context, _ string) error {
	return f.call(ctx, "RemoveContainer")
}
func (f *fake) UpdateContainer(ctx context.Context, _ string, _ *runtimeapi.LinuxContainerResources, _ map[string]string) error {
	return f.call(ctx, "UpdateContainer")
}
func (f *fake) ReopenLog(ctx context.Context, _ string) error  { return f.call(ctx, "ReopenLog") }
func (f *fake) Subscribe(context.Context) <-chan sandbox.Event { return f.events }
func (f *fake) EventCounts() sandbox.EventCounts               { return sandbox.EventCounts{Published: 3, Cut: 1} }
func (f *fake) Ready() error                                   { return f.ready }
func (f *fake) Pods() []*sandbox.PodStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*sandbox.PodStatus{}, f.pods...)
}
func (f *fake) Containers() []*sandbox.ContainerStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*sandbox.ContainerStatus{}, f.containers...)
}
func (f *fake) ContainersOf(podID string) []*sandbox.ContainerStatus {
	return slices.DeleteFunc(f.Containers(), func(c *sandbox.ContainerStatus) bool { return c.PodID != podID })
}

func (f *fake) PodStats(ctx context.Context, id string) (*runtimeapi.PodSandboxStats, error) {
	if _, err := f.Pod(id); err != nil {
		return nil, err
	}
	return f.ListPodStats(ctx, []string{id})[0], nil
}

func (f *fake) Pod(id string) (*sandbox.PodStatus, error) {
	for _, p := range f.Pods() {
		if strings.HasPrefix(p.ID, id) {
			return p, nil
		}
	}
	return nil, fmt.Errorf("pod sandbox %s: %w", id, sandbox.ErrNotFound)
}

func (f *fake) Container(id string) (*sandbox.ContainerStatus, error) {
	for _, c := range f.Containers() {
		if strings.HasPrefix(c.ID, id) {
			return c, nil
		}
	}
	return nil, fmt.Errorf("container %s: %w", id, sandbox.ErrNotFound)
}

func (f *fake) ExecSync(ctx context.Context, id string, _ []string, _ time.Duration) (sandbox.ExecResult, error) {
	if _, err := f.Container(id); err != nil {
		return sandbox.ExecResult{}, err
	}
	return f.result, f.call(ctx, "ExecSync")
}

func (f *fake) Exec(ctx context.Context, id string, cmd []string, s sandbox.Streams) (int, error) {
	return f.exec(ctx, id, cmd, s)
}

func (f *fake) Attach(ctx context.Context, id string, s sandbox.Streams) error {
	_, err := f.exec(ctx, id, nil, s)
	return err
}

func (f *fake) PortForward(_ context.Context, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	b, err := io.ReadAll(stream)
	if err == nil {
		_, err = fmt.Fprintf(stream, "%d:%s", port, b)
	}
	return err
}

func (f *fake) ContainerStats(_ context.Context, id string) (*runtimeapi.ContainerStats, error) {
	c, err := f.Container(id)
	if err != nil {
		return nil, err
	}
	return measured(c.ID), nil
}

func measured(id string) *runtimeapi.ContainerStats {
	one := &runtimeapi.UInt64Value{Value: 3e9}
	psi := &runtimeapi.PsiStats{Full: &runtimeapi.PsiData{Total: 2e9}, Some: &runtimeapi.PsiData{Total: 3e9}}
	return &runtimeapi.ContainerStats{
		Attributes:    &runtimeapi.ContainerAttributes{Id: id},
		Cpu:           &runtimeapi.CpuUsage{UsageCoreNanoSeconds: one, Psi: psi},
		Memory:        &runtimeapi.MemoryUsage{UsageBytes: one, WorkingSetBytes: one, RssBytes: one, PageFaults: one, MajorPageFaults: one, Psi: psi},
		Swap:          &runtimeapi.SwapUsage{SwapUsageBytes: one},
		Io:            &runtimeapi.IoUsage{Psi: psi},
		WritableLayer: &runtimeapi.FilesystemUsage{UsedBytes: &runtimeapi.UInt64Value{Value: 10}, InodesUsed: &runtimeapi.UInt64Value{Value: 2}},
	}
}

func (f *fake) ListContainerStats(_ context.Context, ids []string) []*runtimeapi.ContainerStats {
	var out []*runtimeapi.ContainerStats
	for _, id := range ids {
		st := measured(id)
		if c, err := f.Container(id); err == nil {
			st.Attributes.Labels, st.Attributes.Annotations = c.Config.GetLabels(), c.Config.GetAnnotations()
		}
		out = append(out, st)
	}
	return out
}

// everyMeasure has a value for each, of either version of cgroups.
func everyMeasure() sandbox.Measures {
	n := func(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }
	return sandbox.Measures{
		Periods: n(30), Throttled: n(20), ThrottledTime: n(2e9), Bursts: n(1), BurstTime: n(1e9), UserCPU: n(2e9), SystemCPU: n(1e9), OOMKills: n(1),
		Faults: n(1), MajorFaults: n(1), HighEvents: n(1), MaxEvents: n(1), ActiveFile: n(1), InactiveFile: n(1), Dirty: n(1), Writeback: n(1),
		Scanned: n(1), Reclaimed: n(1), FileRefaults: n(1), AnonRefaults: n(1),
		Cache: n(1), Mapped: n(1), Kernel: n(1), PeakMemory: n(1), MemoryReserved: n(0), MemoryLimitHits: n(1), Swap: n(1),
		Threads: n(5), ThreadLimit: n(0), Processes: 1, Files: 3, Sockets: 1, FileLimit: n(1024),
		Devices: []sandbox.DeviceIO{
			{
				Device: "/dev/vda", Major: 254, ReadBytes: 1024, ReadsMerged: n(1), WritesMerged: n(1), ReadTime: n(1), WriteTime: n(1), Time: n(1), Queued: n(1),
				CostUsage: n(1), CostWait: n(1), CostInDebt: n(1), CostInDelay: n(1),
			},
			{Major: 7, Minor: 1}, {Major: 7, Minor: 2},
		},
		HugePages:  []sandbox.HugePages{{Size: "2MB", Used: n(0), Peak: n(0), Hits: n(0)}},
		Disk:       &sandbox.Disk{Device: "/dev/vda1", Bytes: 10, Inodes: 5, InodesFree: 4},
		Interfaces: []sandbox.InterfacePackets{{Name: "eth0", Received: 1}},
		Limits:     sandbox.Limits{Period: n(1), Quota: n(1), Shares: n(1), Memory: n(1), Swap: n(1)},
	}
}

// Counted is a host that counts all that any does.
func (f *fake) Counted() sandbox.Counted {
	if f.counted != nil {
		return *f.counted
	}
	return sandbox.Counted{Cgroup2: true, HugePages: true, HugePeaks: true, Idle: &everyMeasure().Devices[0]}
}

func (f *fake) MeasurePods(ctx context.Context, ids []string) []*sandbox.PodMeasures {
	var out []*sandbox.PodMeasures
	for _, st := range f.ListPodStats(ctx, ids) {
		m := &sandbox.PodMeasures{Stats: st, Pod: everyMeasure(), Containers: map[string]sandbox.Measures{}}
		for _, c := range st.GetLinux().GetContainers() {
			m.Containers[c.GetAttributes().GetId()] = everyMeasure()
		}
		out = append(out, m)
	}
	return out
}

func (f *fake) ListPodStats(ctx context.Context, ids []string) []*runtimeapi.PodSandboxStats {
	var out []*runtimeapi.PodSandboxStats
	for _, id := range ids {
		p, err := f.Pod(id)
		if err != nil {
			continue
		}
		var own []string
		for _, c := range f.Containers() {
			if c.PodID == id {
				own = append(own, c.ID)
			}
		}
		nic := &runtimeapi.NetworkInterfaceUsage{Name: "eth0", RxBytes: &runtimeapi.UInt64Value{Value: 1}, RxErrors: &runtimeapi.UInt64Value{}, TxBytes: &runtimeapi.UInt64Value{Value: 1}, TxErrors: &runtimeapi.UInt64Value{}}
		out = append(out, &runtimeapi.PodSandboxStats{
			Attributes: &runtimeapi.PodSandboxAttributes{
				Id: id, Metadata: p.Config.GetMetadata(), Labels: p.Config.GetLabels(), Annotations: p.Config.GetAnnotations(),
			},
			Linux: &runtimeapi.LinuxPodSandboxStats{
				Cpu:        measured(id).Cpu,
				Memory:     measured(id).Memory,
				Network:    &runtimeapi.NetworkUsage{DefaultInterface: nic},
				Process:    &runtimeapi.ProcessUsage{ProcessCount: &runtimeapi.UInt64Value{Value: 4}},
				Containers: f.ListContainerStats(ctx, own),
			},
		})
	}
	return out
}

// fakeImages is apart from fake: both have a List or Remove of their own.
type fakeImages struct{ *fake }

func (f fakeImages) Pull(ctx context.Context, r image.PullRequest) (*image.Image, error) {
	if err := f.call(ctx, "Pull"); err != nil {
		return nil, err
	}
	if r.Progress != nil {
		for _, done := range []int64{0, 1, 500, 1000} {
			r.Progress(image.Progress{Stage: image.StageLayer, Index: 0, Layers: 2, Done: done, Total: 1000})
		}
		r.Progress(image.Progress{Stage: image.StageCommit, Reference: r.Reference})
	}
	img := &image.Image{ID: "sha256:" + strings.Repeat("1", 64), Tags: []string{r.Reference}, Size: 5}
	f.mu.Lock()
	f.images = append(f.images, img)
	f.mu.Unlock()
	return img, nil
}

func (f fakeImages) Get(ref string) (*image.Image, error) {
	if strings.Contains(ref, " ") {
		return nil, fmt.Errorf("reference %q: %w", ref, image.ErrInvalidReference)
	}
	for _, img := range f.List() {
		if strings.HasPrefix(img.ID, ref) || len(img.Tags) > 0 && img.Tags[0] == ref {
			return img, nil
		}
	}
	return nil, fmt.Errorf("image %q: %w", ref, image.ErrNotFound)
}

func (f fakeImages) List() []*image.Image {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*image.Image{}, f.images...)
}

func (f fakeImages) RawConfig(string) ([]byte, error) { return f.rawConfig, nil }

func (f fakeImages) Remove(ctx context.Context, _ string) error { return f.call(ctx, "Remove") }

func (f fakeImages) Usage(context.Context) (image.Usage, error) {
	return image.Usage{Path: "/images", Bytes: 1000, Inodes: 10}, nil
}

func (f fakeImages) Load(_ context.Context, r io.Reader, _ image.LoadOptions) ([]*image.Image, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if string(b) == "bad" {
		return nil, fmt.Errorf("archive: %w", image.ErrCorrupt)
	}
	return []*image.Image{{ID: "sha256:ff", Tags: []string{fmt.Sprintf("loaded:%d", len(b))}}}, nil
}

func (f fakeImages) Export(_ context.Context, refs []string, w io.Writer) error {
	_, err := io.WriteString(w, strings.Repeat(strings.Join(refs, ","), 1<<20))
	return err
}

func (f fakeImages) Check(context.Context, bool) (image.Report, error) { return image.Report{}, nil }

// options of a server on f, with everything a test needs.
func options(f *fake) Options {
	return Options{
		Domain: f, Calls: f.inflight, Images: fakeImages{f}, Archive: fakeImages{f},
		Version: "1.2.3", CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS, Handlers: func() []*runtimeapi.RuntimeHandler { return []*runtimeapi.RuntimeHandler{{}, {Name: "berth"}} },
	}
}

// serve starts a ready server and gives it with a connection to it.
func serve(t *testing.T, opt Options) (*Server, *grpc.ClientConn) {
	t.Helper()
	s, err := NewServer(opt)
	if err != nil {
		t.Fatal(err)
	}
	s.SetReady()
	return s, dial(t, s)
}

func dial(t *testing.T, s *Server) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	g := grpc.NewServer(s.Interceptors()...)
	s.Register(g)
	go g.Serve(l)
	conn, err := grpc.NewClient("passthrough:///berth", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20), grpc.MaxCallSendMsgSize(32<<20)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		g.Stop()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func podConfig(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "ns", Uid: "u-" + name},
		Labels:   map[string]string{"app": name, "tier": "x"},
	}
}

func containerConfig(name string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: "busybox"},
		Labels:   map[string]string{"app": name},
	}
}
