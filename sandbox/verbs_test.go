package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
	"berth/sandbox/record"
	"berth/test/fewfiles"
)

const (
	ctrCreated = runtimeapi.ContainerState_CONTAINER_CREATED
	ctrRunning = runtimeapi.ContainerState_CONTAINER_RUNNING
	ctrExited  = runtimeapi.ContainerState_CONTAINER_EXITED
	podReady   = runtimeapi.PodSandboxState_SANDBOX_READY
	podStopped = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
)

// A pod and its container from the first call to the last, and what the shim hears.
func TestTheWholeLifeOfAPod(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	if st := n.podStatus(pod); st.State != podReady || st.PID == 0 || st.ShimID != "s1" {
		t.Errorf("the pod that runs: %+v", st)
	}
	id := n.create(pod, "c")
	if st := n.container(id); st.State != ctrCreated || st.PID == 0 || st.ImageID != "sha256:busybox" {
		t.Errorf("the container that was created: %+v", st)
	}
	if err := n.m.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if st := n.container(id); st.State != ctrRunning || st.StartedAt.IsZero() {
		t.Errorf("the container that was started: %+v", st)
	}
	if err := n.m.StopContainer(t.Context(), id, time.Minute); err != nil {
		t.Fatal(err)
	}
	if st := n.container(id); st.State != ctrExited || st.ExitCode != 128+15 || st.FinishedAt.IsZero() {
		t.Errorf("the container that was stopped: %+v", st)
	}
	if err := n.m.StopPod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if st := n.podStatus(pod); st.State != podStopped || st.PID != 0 {
		t.Errorf("the pod that was stopped: %+v", st)
	}
	if err := n.m.RemovePod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if _, err := n.m.Pod(pod); !errors.Is(err, ErrNotFound) {
		t.Errorf("the pod that was removed: %v", err)
	}
	want := []string{"run-pod", "create", "start", "kill", "delete", "stop-pod", "remove-pod"}
	var got []string
	for _, method := range n.shim.called() { // StopPod and RemovePod both release
		if !slices.Contains(got, method) {
			got = append(got, method)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the shim was asked for %v, want %v", got, want)
	}
	wantNothing(t, filepath.Join(n.root, "pods"))
	wantNothing(t, filepath.Join(n.state, "pods"))
	wantNothing(t, filepath.Join(n.state, "containers"))
	if len(n.images.held)+len(n.images.mounted) > 0 {
		t.Errorf("images still held %v, mounted %v", n.images.held, n.images.mounted)
	}
}

// Whatever step of RunPod fails, nothing is left of the pod.
func TestAFailedRunLeavesNothing(t *testing.T) {
	for name, fail := range map[string]func(n *fakeNode, cfg *runtimeapi.PodSandboxConfig){
		"the shim refuses": func(n *fakeNode, _ *runtimeapi.PodSandboxConfig) {
			n.shim.onCall(func(method, _ string) *shimapi.Error {
				if method == shimapi.MethodRunPod {
					return &shimapi.Error{Kind: shimapi.KindInvalid, Message: "no such sysctl"}
				}
				return nil
			})
		},
		"a sysctl of the host": func(_ *fakeNode, cfg *runtimeapi.PodSandboxConfig) {
			cfg.Linux.Sysctls = map[string]string{"net.core.somaxconn": "1"}
		},
		"an annotation": func(_ *fakeNode, cfg *runtimeapi.PodSandboxConfig) {
			cfg.Annotations = map[string]string{InitAnnotation: "maybe"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newFakeNode(t)
			cfg := podConfig("a")
			fail(n, cfg)
			_, err := n.m.RunPod(t.Context(), cfg, "")
			wantError(t, "run", err, ErrInvalid)
			if pods := n.m.Pods(); len(pods) > 0 {
				t.Errorf("listed: %+v", pods[0])
			}
			wantNothing(t, filepath.Join(n.root, "pods"))
			wantNothing(t, filepath.Join(n.state, "pods"))
		})
	}
}

func TestAnUnknownHandlerIsRefused(t *testing.T) {
	n := newFakeNode(t)
	_, err := n.m.RunPod(t.Context(), podConfig("a"), "kata")
	wantError(t, "run with handler kata", err, ErrInvalid)
	id, err := n.m.RunPod(t.Context(), podConfig("a"), "other")
	if err != nil || n.podStatus(id).Handler != "other" {
		t.Errorf("run with a configured handler: %q, %v", id, err)
	}
}

// Whatever step of CreateContainer fails, nothing is left of the container and the
// pod goes on.
func TestAFailedCreateLeavesNothing(t *testing.T) {
	for name, tt := range map[string]struct {
		fail func(n *fakeNode, cfg *runtimeapi.ContainerConfig)
		want error
	}{
		"no image": {func(_ *fakeNode, cfg *runtimeapi.ContainerConfig) { cfg.Image.Image = "missing" }, ErrNotFound},
		"no mount": {func(n *fakeNode, _ *runtimeapi.ContainerConfig) { n.images.mount = unix.ENOSPC }, unix.ENOSPC},
		"privileged in a pod that is not": {func(_ *fakeNode, cfg *runtimeapi.ContainerConfig) {
			cfg.Linux.SecurityContext.Privileged = true
		}, ErrInvalid},
		"no host path": {func(_ *fakeNode, cfg *runtimeapi.ContainerConfig) {
			cfg.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", HostPath: "/nonexistent/dir"}}
		}, ErrInvalid},
		"no program": {func(n *fakeNode, _ *runtimeapi.ContainerConfig) {
			n.shim.onCall(func(method, _ string) *shimapi.Error {
				if method == shimapi.MethodCreate {
					return &shimapi.Error{Kind: shimapi.KindStartFailed, Message: "no such file"}
				}
				return nil
			})
		}, ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			n := newFakeNode(t)
			pod := n.pod("a")
			cfg := containerConfig("c")
			tt.fail(n, cfg)
			_, err := n.m.CreateContainer(t.Context(), pod, cfg, nil)
			wantError(t, "create", err, tt.want)
			if all := n.m.Containers(); len(all) > 0 {
				t.Errorf("listed: %+v", all[0])
			}
			wantNothing(t, filepath.Join(n.podDirOf(pod), "containers"))
			wantNothing(t, filepath.Join(n.state, "containers"))
			if len(n.images.held) > 0 {
				t.Errorf("layers are still held: %v", n.images.held)
			}
			n.shim.onCall(nil)
			n.images.mount = nil
			n.create(pod, "again")
		})
	}
}

// A container that ignores its stop signal is killed when its grace is over.
func TestStopKillsAfterTheGrace(t *testing.T) {
	n := newFakeNode(t)
	id := n.run(n.pod("a"), "c")
	n.shim.ignore(15)
	if err := n.m.StopContainer(t.Context(), id, 10*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if st := n.container(id); st.State != ctrExited || st.ExitCode != 137 {
		t.Errorf("after the kill: %+v", st)
	}
	if k := n.shim.kills; len(k) != 2 || k[0].Signal != 15 || k[1].Signal != 9 || !k[1].All {
		t.Errorf("signals %+v, want 15, then 9 to all", k)
	}
	if err := n.m.StopContainer(t.Context(), id, time.Minute); err != nil {
		t.Errorf("stop of what has ended: %v", err)
	}
	if err := n.m.StopContainer(t.Context(), "unknown", 0); err != nil {
		t.Errorf("stop of an unknown container: %v", err)
	}
}

// A daemon that has no descriptor left to send the stop signal with does not kill instead: the
// container gets its signal, and the time that it was promised, when there are some.
func TestStopWithoutDescriptorsKeepsTheGrace(t *testing.T) {
	n := newFakeNode(t)
	id := n.run(n.pod("a"), "c")
	enough := fewfiles.Spare(t, 0)
	defer enough()
	stopped := make(chan error, 1)
	go func() { stopped <- n.m.StopContainer(context.Background(), id, time.Minute) }()
	select {
	case err := <-stopped:
		t.Errorf("the stop returned %v before there were descriptors", err)
	case <-time.After(3 * signalPause): // so that it has tried
	}
	enough()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if k := n.shim.kills; len(k) != 1 || k[0].Signal != 15 {
		t.Errorf("signals %+v, want 15 alone", k)
	}
}

// A process in uninterruptible sleep ignores SIGKILL: the stop gives up and names it.
func TestStopOfWhatCantEnd(t *testing.T) {
	n := newFakeNode(t)
	id := n.run(n.pod("a"), "c")
	n.shim.ignore(9)
	err := n.m.StopContainer(t.Context(), id, 0)
	wantError(t, "stop", err, ErrTimeout)
	if err == nil || !strings.Contains(err.Error(), "/stack") {
		t.Errorf("the error does not name the process: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantError(t, "stop by a client that gave up", n.m.StopContainer(ctx, id, time.Minute), context.Canceled)
}

// UpdateContainer changes the shim's container, the record and what a status says.
func TestUpdateIsRecorded(t *testing.T) {
	n := newFakeNode(t)
	id := n.run(n.pod("a"), "c")
	res := &runtimeapi.LinuxContainerResources{CpuShares: 512, MemoryLimitInBytes: 64 << 20}
	if err := n.m.UpdateContainer(t.Context(), id, res, map[string]string{"k": "v"}); err != nil {
		t.Fatal(err)
	}
	if got := n.container(id).Resources.GetLinux(); got.GetCpuShares() != 512 || got.GetMemoryLimitInBytes() != 64<<20 {
		t.Errorf("the status says %v", got)
	}
	n.restart()
	st := n.container(id)
	if st.Resources.GetLinux().GetMemoryLimitInBytes() != 64<<20 || st.UpdateAnnotations["k"] != "v" || st.State != ctrRunning {
		t.Errorf("after a restart: %+v", st)
	}
}

func TestUpdatePodResources(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	over, res := &runtimeapi.LinuxContainerResources{CpuShares: 2}, &runtimeapi.LinuxContainerResources{CpuShares: 3}
	if err := n.m.UpdatePodResources(t.Context(), pod, over, res); err != nil {
		t.Fatal(err)
	}
	if err := n.m.UpdatePodResources(t.Context(), pod, nil, nil); err != nil {
		t.Fatal(err)
	}
	n.restart()
	if l := n.podStatus(pod).Config.GetLinux(); l.GetOverhead().GetCpuShares() != 2 || l.GetResources().GetCpuShares() != 3 {
		t.Errorf("after a restart: %v", l)
	}
	if got := n.shim.podUpdates; len(got) != 2 || *got[0].Limits.Resources.CPU.Shares != 5 {
		t.Errorf("the pod's own cgroup was given %v, want 2 and 3 shares as one limit", got)
	}
}

// The kubelet subtracts the overhead from a cgroup's limits even where there is none, -1.
func TestUpdatePodResourcesFromNoLimit(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	over := &runtimeapi.LinuxContainerResources{CpuPeriod: 100_000, CpuQuota: 25_000, MemoryLimitInBytes: 120 << 20}
	res := &runtimeapi.LinuxContainerResources{CpuPeriod: 100_000, CpuQuota: -25_001, MemoryLimitInBytes: -1 - 120<<20, MemorySwapLimitInBytes: -2}
	sent := proto.Clone(res)
	if err := n.m.UpdatePodResources(t.Context(), pod, over, res); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(res, sent) {
		t.Errorf("the request was changed to %v", res)
	}
	l := n.podStatus(pod).Config.GetLinux()
	if got := l.GetResources(); got.GetCpuQuota() != -1 || got.GetMemoryLimitInBytes() != -1 || got.GetMemorySwapLimitInBytes() != -1 || !proto.Equal(l.GetOverhead(), over) {
		t.Errorf("recorded are %v", l)
	}
	if got := n.shim.podUpdates; len(got) != 1 || *got[0].Limits.Resources.CPU.Quota != -1 || *got[0].Limits.Resources.Memory.Limit != -1 {
		t.Errorf("the pod's own cgroup was given %v, want no limit", got)
	}
	err := n.m.UpdatePodResources(t.Context(), pod, nil, &runtimeapi.LinuxContainerResources{CpuShares: 1})
	wantError(t, "shares that no kernel takes", err, ErrInvalid)
	err = n.m.UpdateContainer(t.Context(), n.run(pod, "c"), &runtimeapi.LinuxContainerResources{CpuQuota: -25_001}, nil)
	wantError(t, "such a quota of a container", err, ErrInvalid)
}

// A cgroup that the client names is the client's to limit.
func TestPodLimitsOfAnotherOwner(t *testing.T) {
	n := newFakeNode(t)
	cfg := podConfig("a")
	cfg.Linux = &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/kubepods/a", Resources: &runtimeapi.LinuxContainerResources{CpuShares: 3}}
	pod, err := n.m.RunPod(t.Context(), cfg, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.m.UpdatePodResources(t.Context(), pod, nil, cfg.Linux.Resources); err != nil || len(n.shim.podUpdates) > 0 {
		t.Errorf("%v; updates %v", err, n.shim.podUpdates)
	}
}

// A pod that is asked to stop ends the creation of a container that hangs in the shim.
func TestStopPodEndsAHangingCreation(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	arrived, let := make(chan struct{}), make(chan struct{})
	n.shim.onCall(func(method, _ string) *shimapi.Error {
		if method == shimapi.MethodCreate {
			close(arrived)
			<-let
		}
		return nil
	})
	created := make(chan error, 1)
	go func() {
		_, err := n.m.CreateContainer(context.Background(), pod, containerConfig("c"), nil)
		created <- err
	}()
	<-arrived
	if err := n.m.StopPod(t.Context(), pod); err != nil {
		t.Error(err)
	}
	wantError(t, "the creation", <-created, ErrState)
	close(let)
	_, err := n.m.CreateContainer(t.Context(), pod, containerConfig("d"), nil)
	wantError(t, "create in a stopped pod", err, ErrState)
}

// A pod whose pause process ends is not ready any more, and its removal works.
func TestThePauseProcessEnds(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	id := n.create(pod, "c")
	n.shim.endPause(pod)
	await(t, "not ready", func() bool { return n.podStatus(pod).State == podStopped })
	wantError(t, "start", n.m.StartContainer(t.Context(), id), ErrState)
	if err := n.m.RemovePod(t.Context(), pod); err != nil {
		t.Error(err)
	}
}

func TestAContainerEndsByItself(t *testing.T) {
	n := newFakeNode(t)
	id := n.run(n.pod("a"), "c")
	n.shim.exit(id, 3)
	await(t, "the end", func() bool { return n.container(id).State == ctrExited })
	if st := n.container(id); st.ExitCode != 3 || st.Reason != "Error" {
		t.Errorf("%+v", st)
	}
	if err := n.m.RemoveContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := n.m.RemoveContainer(t.Context(), id); err != nil {
		t.Errorf("remove again: %v", err)
	}
	if _, err := n.m.Container(id); !errors.Is(err, ErrNotFound) {
		t.Errorf("after its removal: %v", err)
	}
}

// The shim of all pods dies and none can be started: containers and pods end, and say so.
func TestALostShim(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	id := n.run(pod, "c")
	n.shim.die()
	await(t, "the end of the container", func() bool { return n.container(id).State == ctrExited })
	await(t, "the end of the pod", func() bool { return n.podStatus(pod).State == podStopped })
	st := n.container(id)
	if st.ExitCode != shimapi.CodeUnknown || st.Reason != shimapi.ReasonUnknown || st.FinishedAt.IsZero() {
		t.Errorf("the lost container: %+v", st)
	}
	var rec struct {
		LostAt time.Time `json:"lost_at"`
	}
	await(t, "the record of the loss", func() bool {
		err := atomicfile.Read(filepath.Join(n.podDirOf(pod), "containers", id, "container.json"), &rec)
		return err == nil && rec.LostAt.Equal(st.FinishedAt)
	})
	if err := n.m.Ready(); err == nil || !strings.Contains(err.Error(), "can't be replaced") {
		t.Errorf("ready: %v", err)
	}
	if err := n.m.RemovePod(t.Context(), pod); err != nil {
		t.Error(err)
	}
	wantNothing(t, filepath.Join(n.root, "pods"))
}

// A call during which the shim dies can be made again, and its error says so to clients.
func TestAShimThatDiesDuringACall(t *testing.T) {
	for method, call := range map[string]func(n *fakeNode, pod string) error{
		shimapi.MethodRunPod: func(n *fakeNode, _ string) error {
			_, err := n.m.RunPod(t.Context(), podConfig("b"), "")
			return err
		},
		shimapi.MethodCreate: func(n *fakeNode, pod string) error {
			_, err := n.m.CreateContainer(t.Context(), pod, containerConfig("c"), nil)
			return err
		},
	} {
		t.Run(method, func(t *testing.T) {
			n := newFakeNode(t)
			pod := n.pod("a")
			n.shim.onCall(func(called, _ string) *shimapi.Error {
				if called == method {
					n.shim.die()
				}
				return nil
			})
			wantError(t, method, call(n, pod), ErrNotReady)
		})
	}
}

// While an update waits for the shim, the container is found lost; the update must not
// erase that from the record.
func TestALossDuringAnUpdateIsKept(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	id := n.run(pod, "c")
	arrived, let := make(chan struct{}), make(chan struct{})
	n.shim.onCall(func(method, _ string) *shimapi.Error {
		if method == shimapi.MethodUpdate {
			close(arrived)
			<-let
		}
		return nil
	})
	updated := make(chan error, 1)
	go func() {
		updated <- n.m.UpdateContainer(context.Background(), id, &runtimeapi.LinuxContainerResources{CpuShares: 99}, nil)
	}()
	<-arrived
	n.shim.forget(id) // the kill below finds nobody
	if err := n.m.StopContainer(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(n.podDirOf(pod), "containers", id, shimapi.RecordName)) // the shim never wrote of it
	lost := n.container(id).FinishedAt
	if lost.IsZero() || n.container(id).Reason != shimapi.ReasonUnknown {
		t.Fatalf("not lost: %+v", n.container(id))
	}
	close(let)
	if err := <-updated; err != nil {
		t.Fatal(err)
	}
	n.restart()
	st := n.container(id)
	if !st.FinishedAt.Equal(lost) {
		t.Errorf("after a restart the container was lost at %v, not at %v", st.FinishedAt, lost)
	}
	if st.Resources.GetLinux().GetCpuShares() != 99 {
		t.Errorf("the update is not recorded: %v", st.Resources)
	}
}

func TestEventsOfVerbs(t *testing.T) {
	n := newFakeNode(t)
	events := n.m.Subscribe(t.Context())
	pod := n.pod("a")
	id := n.run(pod, "c")
	if err := errors.Join(n.m.RemoveContainer(t.Context(), id), n.m.RemovePod(t.Context(), pod)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 7 {
		e := <-events
		what := "pod "
		if e.ContainerID == id {
			what = "container "
		}
		got = append(got, what+strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(e.Type.String(), "CONTAINER_"), "_EVENT")))
	}
	want := []string{"pod created", "pod started", "container created", "container started", "container stopped", "container deleted", "pod deleted"}
	if !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// A removal that fails halfway tells of the containers that went with it, and the next of
// the rest: each once, the pod last.
func TestEventsOfARemovalInTwoTries(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	one, two := n.run(pod, "c"), n.run(pod, "d")
	events := n.m.Subscribe(t.Context())
	refused := false
	n.shim.onCall(func(method, _ string) *shimapi.Error {
		if method != shimapi.MethodRemovePod || refused {
			return nil
		}
		refused = true
		return &shimapi.Error{Kind: shimapi.KindInternal, Message: "not now"}
	})
	if err := n.m.RemovePod(t.Context(), pod); err == nil || len(n.m.Containers()) > 0 {
		t.Fatalf("the first try: %v; containers %v", err, n.m.Containers())
	}
	if err := n.m.RemovePod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	n.pod("end")
	var got []string
	for e := range events {
		if e.Type == runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT {
			break
		}
		if e.Type == runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT {
			got = append(got, e.ContainerID)
		}
	}
	if len(got) == 3 && got[0] == two {
		got[0], got[1] = got[1], got[0]
	}
	if want := []string{one, two, pod}; !slices.Equal(got, want) {
		t.Errorf("deleted %q, want %q", got, want)
	}
}

// What is erased twice, by calls that overlap, is told once; what nobody saw is not told.
func TestEventsOfAnErasure(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	c := n.m.index.containerByID(n.create(pod, "c"))
	hidden := newContainer(c.pod, filepath.Join(n.podDirOf(pod), "unused"), containerRecord{
		Container: record.Container{ID: newID(), PodID: pod, Intent: record.Making}, config: containerConfig("d"),
	})
	n.m.index.addContainer(hidden)
	events := n.m.Subscribe(t.Context())
	for _, e := range []*Container{c, c, hidden} {
		if err := n.m.podVerbs.teardown.eraseContainer(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(events); n != 1 {
		t.Fatalf("told %d times", n)
	}
	if e := <-events; e.ContainerID != c.id {
		t.Errorf("told of %s", e.ContainerID)
	}
}

// One who reads late learns of a pod that has come and gone meanwhile all the same.
func TestEventsCarryTheirPod(t *testing.T) {
	n := newFakeNode(t)
	events := n.m.Subscribe(t.Context())
	pod := n.pod("a")
	n.run(pod, "c")
	if err := n.m.RemovePod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	for range 7 { // see TestEventsOfVerbs
		if e := <-events; e.Pod == nil || e.Pod.ID != pod || e.Pod.Config.GetMetadata().GetName() != "a" {
			t.Errorf("%v of %s carries %v", e.Type, e.ContainerID, e.Pod)
		}
	}
}

// A container that is refused a verb because it has ended is not told as running afterwards,
// although the event of its end is still on its way.
func TestRefusedSinceItHasEnded(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	for name, verb := range map[string]struct {
		method string
		call   func(ctx context.Context, id string) error
	}{
		"update": {shimapi.MethodUpdate, func(ctx context.Context, id string) error {
			return n.m.UpdateContainer(ctx, id, &runtimeapi.LinuxContainerResources{CpuShares: 100}, nil)
		}},
		"exec sync": {shimapi.MethodExec, func(ctx context.Context, id string) error {
			_, err := n.m.ExecSync(ctx, id, []string{"true"}, 0)
			return err
		}},
		"exec": {shimapi.MethodExec, func(ctx context.Context, id string) error {
			_, err := n.m.Exec(ctx, id, []string{"true"}, Streams{})
			return err
		}},
		"exec with a terminal": {shimapi.MethodExec, func(ctx context.Context, id string) error {
			_, err := n.m.Exec(ctx, id, []string{"true"}, Streams{TTY: true})
			return err
		}},
		"attach": {shimapi.MethodAttach, func(ctx context.Context, id string) error {
			return n.m.Attach(ctx, id, Streams{Stdout: &buffer{}})
		}},
		"reopen the log": {shimapi.MethodReopen, func(ctx context.Context, id string) error {
			return n.m.ReopenLog(ctx, id)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			id := n.run(pod, name)
			n.shim.endSilently(verb.method, id)
			wantError(t, name+" of what has ended", verb.call(t.Context(), id), ErrState)
			if st := n.container(id); st.State != ctrExited || st.ExitCode != 5 {
				t.Errorf("after the refusal it is %v with code %d", st.State, st.ExitCode)
			}
		})
	}
}
