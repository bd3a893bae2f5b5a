package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/image"
	"berth/sandbox"
)

func TestFiltersAreANDed(t *testing.T) {
	f := newFake()
	for i, name := range []string{"a", "b"} {
		f.pods = append(f.pods, &sandbox.PodStatus{ID: "aa" + name, Config: podConfig(name), State: runtimeapi.PodSandboxState(i)})
		f.containers = append(f.containers, &sandbox.ContainerStatus{ID: "cc" + name, PodID: "aa" + name, Config: containerConfig(name), State: runtimeapi.ContainerState(i)})
	}
	s, _ := serve(t, options(f))
	ready, stopped := &runtimeapi.PodSandboxStateValue{}, &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY}
	for _, c := range []struct {
		f    *runtimeapi.PodSandboxFilter
		want string
	}{
		{nil, "aaa aab"},
		{&runtimeapi.PodSandboxFilter{Id: "aa"}, "aaa aab"},
		{&runtimeapi.PodSandboxFilter{Id: "aab"}, "aab"},
		{&runtimeapi.PodSandboxFilter{State: ready}, "aaa"},
		{&runtimeapi.PodSandboxFilter{State: stopped, Id: "aaa"}, ""},
		{&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"tier": "x"}}, "aaa aab"},
		{&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"tier": "x", "app": "b"}}, "aab"},
		{&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"missing": ""}}, ""},
	} {
		var got []string
		for _, p := range s.listPods(c.f) {
			got = append(got, p.GetId())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v: %v, want %q", c.f, got, c.want)
		}
	}
	running := &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	for _, c := range []struct {
		f    *runtimeapi.ContainerFilter
		want string
	}{
		{nil, "cca ccb"},
		{&runtimeapi.ContainerFilter{PodSandboxId: "aab"}, "ccb"},
		{&runtimeapi.ContainerFilter{PodSandboxId: "aaa", State: running}, ""},
		{&runtimeapi.ContainerFilter{Id: "ccb", State: running, LabelSelector: map[string]string{"app": "b"}}, "ccb"},
	} {
		var got []string
		for _, p := range s.listContainers(c.f) {
			got = append(got, p.GetId())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v: %v, want %q", c.f, got, c.want)
		}
	}
}

func TestBatchesHoldEveryItemOnce(t *testing.T) {
	for _, sizes := range [][]int{{}, {1}, {batchBytes * 2}, {1, batchBytes * 2, 1}, slices.Repeat([]int{10}, 2*batchItems+1), slices.Repeat([]int{batchBytes / 3}, 10)} {
		var items, got []*runtimeapi.PodSandbox
		for _, n := range sizes {
			items = append(items, &runtimeapi.PodSandbox{Id: strings.Repeat("x", n)})
		}
		err := inBatches(items, func(b []*runtimeapi.PodSandbox) error {
			if len(b) == 0 || len(b) > batchItems {
				t.Errorf("a batch of %d", len(b))
			}
			got = append(got, b...)
			return nil
		})
		if err != nil || !slices.Equal(got, items) {
			t.Errorf("%d items: got %d, %v", len(items), len(got), err)
		}
	}
	stop := errors.New("client gone")
	if err := inBatches([]*runtimeapi.Image{{}}, func([]*runtimeapi.Image) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
}

func TestStreamedListsEqualLists(t *testing.T) {
	f := newFake()
	for range 3 * batchItems {
		f.pods = append(f.pods, &sandbox.PodStatus{ID: f.nextID(len(f.pods)), Config: podConfig("p")})
	}
	_, conn := serve(t, options(f))
	client := runtimeapi.NewRuntimeServiceClient(conn)
	stream, err := client.StreamPodSandboxes(t.Context(), &runtimeapi.StreamPodSandboxesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	messages := 0
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		messages++
		for _, p := range m.GetPodSandboxes() {
			if seen[p.GetId()] {
				t.Errorf("%s came twice", p.GetId())
			}
			seen[p.GetId()] = true
		}
	}
	if len(seen) != len(f.pods) || messages < 3 {
		t.Errorf("%d pods in %d messages", len(seen), messages)
	}
}

func TestContainerStatusIsWhole(t *testing.T) {
	f := newFake()
	id := "sha256:" + strings.Repeat("1", 64)
	f.images = []*image.Image{{ID: id, Tags: []string{"docker.io/library/busybox:1"}}}
	cfg := containerConfig("c")
	cfg.Image.Image = id
	f.pods = []*sandbox.PodStatus{{ID: "p", Config: podConfig("p"), Handler: "berth", IPs: []string{"10.0.0.2", "fd00::2"}, NetNS: "/run/net", CreatedAt: time.Unix(1, 0)}}
	f.containers = []*sandbox.ContainerStatus{{
		ID: "c1", PodID: "p", Config: cfg, State: runtimeapi.ContainerState_CONTAINER_EXITED,
		CreatedAt: time.Unix(1, 0), StartedAt: time.Unix(2, 5), FinishedAt: time.Unix(3, 0), ExitCode: 137,
		Reason: "OOMKilled", Message: "bad \xff byte", ImageID: id, ImageRef: id, LogPath: "/l", StopSignal: runtimeapi.Signal_SIGNAL_SIGTERM,
		Spec: []byte(`{"ociVersion":"1.3.0"}`), PID: 12,
	}, {ID: "c2", PodID: "other", Config: containerConfig("d")}}
	_, conn := serve(t, options(f))
	client := runtimeapi.NewRuntimeServiceClient(conn)
	resp, err := client.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: "c1", Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	st := resp.GetStatus()
	if st.GetStartedAt() != 2e9+5 || st.GetExitCode() != 137 || st.GetReason() != "OOMKilled" || st.GetLogPath() != "/l" ||
		st.GetImageId() != id || st.GetImageRef() != id || st.GetStopSignal() != runtimeapi.Signal_SIGNAL_SIGTERM {
		t.Errorf("status: %v", st)
	}
	if st.GetImage().GetImage() != "docker.io/library/busybox:1" {
		t.Errorf("image name: %v", st.GetImage())
	}
	for _, part := range []string{`"sandboxID":"p"`, `"pid":12`, `"runtimeSpec":{"ociVersion":"1.3.0"}`, `"config":{`} {
		if !strings.Contains(resp.GetInfo()["info"], part) {
			t.Errorf("info lacks %s: %s", part, resp.GetInfo()["info"])
		}
	}
	f.images[0].Digests = []string{"docker.io/library/busybox@sha256:22", "mirror.test/busybox@sha256:22"}
	late, err := client.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: "c1"})
	if err != nil || late.GetStatus().GetImageRef() != f.images[0].Digests[0] || late.GetStatus().GetImageId() != id {
		t.Errorf("an image that got its digest later: %v, %v", late, err)
	}
	fresh, err := client.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: "c2"})
	if err != nil || fresh.GetStatus().GetStartedAt() != 0 || len(fresh.GetInfo()) != 0 {
		t.Errorf("a container not started: %v, %v", fresh, err)
	}

	pod, err := client.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: "p", Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	ps := pod.GetStatus()
	if ps.GetNetwork().GetIp() != "10.0.0.2" || ps.GetNetwork().GetAdditionalIps()[0].GetIp() != "fd00::2" || ps.GetRuntimeHandler() != "berth" {
		t.Errorf("pod: %v", ps)
	}
	if len(pod.GetContainersStatuses()) != 1 {
		t.Errorf("containers of the pod: %v", pod.GetContainersStatuses())
	}
	if pod.GetTimestamp() != 0 {
		t.Error("with a time, a kubelet with evented PLEG starts init containers again that have ended")
	}
	if !strings.Contains(pod.GetInfo()["info"], `{"type":"network","path":"/run/net"}`) {
		t.Errorf("pod info: %s", pod.GetInfo()["info"])
	}
}

// Limits of a pod whose cgroup nobody has named are told to have no effect.
func TestPodLimitsWithoutACgroupAreTold(t *testing.T) {
	some := &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 1}
	for name, c := range map[string]struct {
		linux *runtimeapi.LinuxPodSandboxConfig
		want  int
	}{
		"none":          {nil, 0},
		"no limits":     {&runtimeapi.LinuxPodSandboxConfig{Resources: &runtimeapi.LinuxContainerResources{}}, 0},
		"the kubelet's": {&runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/kubepods/pod1", Resources: some, Overhead: some}, 0},
		"resources":     {&runtimeapi.LinuxPodSandboxConfig{Resources: some}, 1},
		"overhead":      {&runtimeapi.LinuxPodSandboxConfig{Overhead: some}, 1},
	} {
		info, err := podInfo(&sandbox.PodStatus{ID: "p", Config: &runtimeapi.PodSandboxConfig{Linux: c.linux}})
		if err != nil || strings.Count(info["info"], `"warnings":["linux.resources`) != c.want {
			t.Errorf("%s: %s, %v", name, info["info"], err)
		}
	}
}

func TestEventsCarryStatusesEvenOfRemovedPods(t *testing.T) {
	f := newFake()
	f.pods = []*sandbox.PodStatus{{ID: "p", Config: podConfig("p")}}
	_, conn := serve(t, options(f))
	stream, err := runtimeapi.NewRuntimeServiceClient(conn).GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func(e sandbox.Event) *runtimeapi.ContainerEventResponse {
		f.events <- e
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	at := time.Unix(9, 0)
	if m := next(sandbox.Event{PodID: "p", ContainerID: "c", At: at}); m.GetCreatedAt() != 9e9 || m.GetPodSandboxStatus().GetMetadata().GetUid() != "u-p" {
		t.Errorf("created: %v", m)
	}
	f.mu.Lock()
	f.pods = nil
	f.mu.Unlock()
	gone := &sandbox.PodStatus{ID: "p", Config: podConfig("p"), State: runtimeapi.PodSandboxState_SANDBOX_READY}
	m := next(sandbox.Event{Type: runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, PodID: "p", ContainerID: "p", Pod: gone, At: at})
	if m.GetPodSandboxStatus().GetMetadata().GetUid() != "u-p" || m.GetPodSandboxStatus().GetState() != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("deleted: %v", m)
	}
	gone = &sandbox.PodStatus{ID: "q", Config: podConfig("q"), State: runtimeapi.PodSandboxState_SANDBOX_READY}
	m = next(sandbox.Event{Type: runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, PodID: "q", ContainerID: "q", Pod: gone, At: at})
	if m.GetPodSandboxStatus().GetMetadata().GetUid() != "u-q" || m.GetPodSandboxStatus().GetState() != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("of a pod that came and went meanwhile: %v", m)
	}
	if m := next(sandbox.Event{PodID: "never seen", ContainerID: "c", At: at}); m.GetPodSandboxStatus().GetMetadata() == nil {
		t.Errorf("unknown pod: %v", m)
	}
	close(f.events)
	if _, err := stream.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a slow reader: %v", err)
	}
}

// A client that reads nothing for a while and fell behind gets all that was kept for it,
// in order, and then an end that tells it to list.
func TestSlowReaderGetsWhatWasKeptThenTheEnd(t *testing.T) {
	const kept = 4096
	f := newFake()
	f.events = make(chan sandbox.Event, kept)
	_, conn := serve(t, options(f))
	stream, err := runtimeapi.NewRuntimeServiceClient(conn).GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range kept {
		f.events <- sandbox.Event{PodID: "p", ContainerID: "c", At: time.Unix(0, int64(i))}
	}
	close(f.events)
	for i := range kept {
		if m, err := stream.Recv(); err != nil || m.GetCreatedAt() != int64(i) {
			t.Fatalf("event %d: %v, %v", i, m, err)
		}
	}
	if _, err := stream.Recv(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "then list") {
		t.Errorf("the end is %v", err)
	}
}

func TestMetricsMatchTheirDescriptors(t *testing.T) {
	f := newFake()
	f.pods = []*sandbox.PodStatus{{ID: "p", Config: podConfig("p")}}
	f.containers = []*sandbox.ContainerStatus{{
		ID: "c", PodID: "p", Config: containerConfig("c"), StartedAt: time.Unix(5, 0), State: runtimeapi.ContainerState_CONTAINER_RUNNING,
		Resources: &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuPeriod: 1, CpuQuota: 1, CpuShares: 1, MemoryLimitInBytes: 1, MemorySwapLimitInBytes: 1}},
	}}
	_, conn := serve(t, options(f))
	client := runtimeapi.NewRuntimeServiceClient(conn)
	d, err := client.ListMetricDescriptors(t.Context(), &runtimeapi.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	keys, used := map[string]int{}, map[string]bool{}
	for _, m := range d.GetDescriptors() {
		keys[m.GetName()] = len(m.GetLabelKeys())
	}
	resp, err := client.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil || len(resp.GetPodMetrics()) != 1 || len(resp.GetPodMetrics()[0].GetContainerMetrics()) != 1 {
		t.Fatalf("%v, %v", resp, err)
	}
	pm := resp.GetPodMetrics()[0]
	series := map[string]bool{}
	for _, m := range append(pm.GetMetrics(), pm.GetContainerMetrics()[0].GetMetrics()...) {
		one := m.GetName() + "{" + strings.Join(m.GetLabelValues(), ",")
		if series[one] {
			t.Errorf("%s is told twice", one)
		}
		series[one] = true
		if keys[m.GetName()] != len(m.GetLabelValues()) {
			t.Errorf("%s has %d label values, %d keys", m.GetName(), len(m.GetLabelValues()), keys[m.GetName()])
		}
		used[m.GetName()] = true
	}
	for name := range keys {
		if !used[name] {
			t.Errorf("%s is described and never sent: podmetrics.go does not send it, or everyMeasure in fake_test.go has no value for it", name)
		}
	}
	if m := pm.GetContainerMetrics()[0].GetMetrics()[0]; m.GetValue().GetValue() != 3 || strings.Join(m.GetLabelValues(), "|") != "c|c|busybox|c|ns|p|total" {
		t.Errorf("cpu: %v", m)
	}
}

// The limit of swap is the kernel's, which on v2 is of swap alone, and the CRI's without one.
func TestSwapLimitOfAContainer(t *testing.T) {
	c := &sandbox.ContainerStatus{Config: containerConfig("c"), Resources: &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 100, MemorySwapLimitInBytes: 130}}}
	f := newFake()
	s, _ := serve(t, options(f))
	for want, kernel := range map[uint64]*runtimeapi.UInt64Value{30: {Value: 30}, 0: {}, 130: nil} {
		m := s.measureContainer(c, measured("c"), sandbox.Measures{Limits: sandbox.Limits{Swap: kernel}}, nil)
		var got []uint64
		for _, v := range m.GetMetrics() {
			if v.GetName() == specSwap.name {
				got = append(got, v.GetValue().GetValue())
			}
		}
		if !slices.Equal(got, []uint64{want}) {
			t.Errorf("the kernel says %v: sent are %v, want %d", kernel, got, want)
		}
	}
}

// TestMetricsOfThisHostAlone: what the host does not count is not described.
func TestMetricsOfThisHostAlone(t *testing.T) {
	zero := &runtimeapi.UInt64Value{}
	merged := []string{"container_fs_reads_merged_total", "container_fs_sector_reads_total", "container_fs_sector_writes_total", "container_fs_writes_merged_total"}
	described := func(c sandbox.Counted) []string {
		f := newFake()
		f.counted = &c
		_, conn := serve(t, options(f))
		d, err := runtimeapi.NewRuntimeServiceClient(conn).ListMetricDescriptors(t.Context(), &runtimeapi.ListMetricDescriptorsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, m := range d.GetDescriptors() {
			names = append(names, m.GetName())
		}
		return names
	}
	least := described(sandbox.Counted{})
	for name, c := range map[string]struct {
		counted sandbox.Counted
		more    []string
	}{
		"version 2":  {sandbox.Counted{Cgroup2: true}, []string{"container_memory_events_high_total", "container_memory_events_max_total", "container_memory_pgscan_total", "container_memory_pgsteal_total"}},
		"huge pages": {sandbox.Counted{HugePages: true, HugePeaks: true}, []string{"container_hugetlb_failcnt", "container_hugetlb_max_usage_bytes", "container_hugetlb_usage_bytes"}},
		"disks":      {sandbox.Counted{Idle: &sandbox.DeviceIO{}}, merged[1:3]},
		"merges":     {sandbox.Counted{Idle: &sandbox.DeviceIO{ReadsMerged: zero, WritesMerged: zero}}, merged},
	} {
		var more []string
		for _, n := range described(c.counted) {
			if !slices.Contains(least, n) {
				more = append(more, n)
			}
		}
		if slices.Sort(more); !slices.Equal(more, c.more) {
			t.Errorf("%s: described besides are %q, not %q", name, more, c.more)
		}
	}
	if !slices.Contains(least, "container_fs_reads_total") || len(least) < 60 {
		t.Errorf("%d are described where the least is counted", len(least))
	}
}

func TestStatsAndImageFilesystem(t *testing.T) {
	f := newFake()
	f.pods = []*sandbox.PodStatus{{ID: "p", Config: podConfig("p")}, {ID: "q", Config: podConfig("q"), State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY}}
	for _, id := range []string{"c1", "c2", "c3"} {
		f.containers = append(f.containers, &sandbox.ContainerStatus{ID: id, PodID: "p", Config: containerConfig(id), State: runtimeapi.ContainerState_CONTAINER_RUNNING})
	}
	f.set("c3", runtimeapi.ContainerState_CONTAINER_EXITED)
	_, conn := serve(t, options(f))
	client := runtimeapi.NewRuntimeServiceClient(conn)
	all, err := client.ListContainerStats(t.Context(), &runtimeapi.ListContainerStatsRequest{})
	if err != nil || len(all.GetStats()) != 2 {
		t.Errorf("running containers: %v, %v", all, err)
	}
	none, err := client.ListContainerStats(t.Context(), &runtimeapi.ListContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{PodSandboxId: "q"}})
	if err != nil || len(none.GetStats()) != 0 {
		t.Errorf("of another pod: %v, %v", none, err)
	}
	pods, err := client.ListPodSandboxStats(t.Context(), &runtimeapi.ListPodSandboxStatsRequest{})
	if err != nil || len(pods.GetStats()) != 1 {
		t.Errorf("ready pods: %v, %v", pods, err)
	}
	info, err := runtimeapi.NewImageServiceClient(conn).ImageFsInfo(t.Context(), &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	// What a container wrote takes its space until it is removed, not until it ends.
	i, c := info.GetImageFilesystems()[0], info.GetContainerFilesystems()[0]
	if i.GetFsId().GetMountpoint() != c.GetFsId().GetMountpoint() || i.GetUsedBytes().GetValue() != 1000 || c.GetUsedBytes().GetValue() != 30 || c.GetInodesUsed().GetValue() != 6 {
		t.Errorf("filesystems: %v %v", i, c)
	}
}

func TestImages(t *testing.T) {
	f := newFake()
	_, conn := serve(t, options(f))
	client := runtimeapi.NewImageServiceClient(conn)
	spec := &runtimeapi.ImageSpec{Image: "busybox:1"}
	missing, err := client.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil || missing.GetImage() != nil {
		t.Errorf("missing image: %v, %v", missing, err)
	}
	pulled, err := client.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: spec})
	if err != nil {
		t.Fatal(err)
	}
	f.images[0].Config.User = "1002:5"
	f.rawConfig = []byte(`{"os":"linux"}`)
	got, err := client.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: spec, Verbose: true})
	if err != nil || got.GetImage().GetId() != pulled.GetImageRef() || got.GetImage().GetUid().GetValue() != 1002 {
		t.Errorf("status: %v, %v", got, err)
	}
	if !strings.Contains(got.GetInfo()["info"], `"imageSpec":{"os":"linux"}`) {
		t.Errorf("info: %v", got.GetInfo())
	}
	for filter, want := range map[string]int{"": 1, "busybox:1": 1, "other": 0} {
		list, err := client.ListImages(t.Context(), &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: filter}}})
		if err != nil || len(list.GetImages()) != want {
			t.Errorf("filter %q: %v, %v", filter, list, err)
		}
	}
	if _, err := client.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: spec}); err != nil {
		t.Error(err)
	}
	for user, want := range map[string]string{"": "<nil> ", "0": "0 ", "www-data:www": "<nil> www-data", "5:6": "5 "} {
		uid, name := imageUser(user)
		got := fmt.Sprintf("<nil> %s", name)
		if uid != nil {
			got = fmt.Sprintf("%d %s", uid.GetValue(), name)
		}
		if got != want {
			t.Errorf("user %q: %q, want %q", user, got, want)
		}
	}
}

func TestExecSync(t *testing.T) {
	f := newFake()
	f.containers = []*sandbox.ContainerStatus{{ID: "c", PodID: "p", Config: containerConfig("c")}}
	full := make([]byte, 16<<20)
	f.result = sandbox.ExecResult{Stdout: full, Stderr: full, ExitCode: 3}
	_, conn := serve(t, options(f))
	client := runtimeapi.NewRuntimeServiceClient(conn)
	req := &runtimeapi.ExecSyncRequest{ContainerId: "c", Cmd: []string{"x"}, Timeout: 1}
	resp, err := client.ExecSync(t.Context(), req)
	if err != nil || resp.GetExitCode() != 3 || len(resp.GetStdout()) != maxOutput/2 || len(resp.GetStderr()) != maxOutput/2 {
		t.Errorf("two full streams: %d %d bytes, %v", len(resp.GetStdout()), len(resp.GetStderr()), err)
	}
	f.hook = func(context.Context, string) error { return sandbox.ErrTimeout }
	if _, err := client.ExecSync(t.Context(), req); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("timeout: %v", err)
	}
	for _, c := range [][4]int{{3, 4, 3, 4}, {10, 4, 6, 4}, {4, 10, 4, 6}, {9, 9, 5, 5}} {
		out, errOut := capOutput(make([]byte, c[0]), make([]byte, c[1]), 10)
		if len(out) != c[2] || len(errOut) != c[3] {
			t.Errorf("%v: %d, %d", c, len(out), len(errOut))
		}
	}
}
