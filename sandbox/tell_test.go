package sandbox

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fakePlugins notes what it is told, in the order it is told.
type fakePlugins struct {
	noPlugins
	refuse string // the step that is refused

	mu   sync.Mutex
	told []string
}

func (p *fakePlugins) note(step, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = append(p.told, step+" "+name)
	if step == p.refuse {
		return errors.New("refused")
	}
	return nil
}

// take is what was told since the last take.
func (p *fakePlugins) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.told
	p.told = nil
	return out
}

func (p *fakePlugins) Pod(_ context.Context, n PodNotice) error {
	return p.note(string(n.Step), n.Pod.Config.GetMetadata().GetName())
}

func (p *fakePlugins) Container(_ context.Context, n ContainerNotice) (bool, error) {
	return true, p.note(string(n.Step), n.Container.Config.GetMetadata().GetName())
}

func (p *fakePlugins) Adjust(_ context.Context, n ContainerNotice, spec *specs.Spec) error {
	spec.Process.Env = append(spec.Process.Env, "PLUGIN=1")
	return p.note("CreateContainer", n.Container.Config.GetMetadata().GetName())
}

func (p *fakePlugins) Update(_ context.Context, n ContainerNotice, asked *runtimeapi.LinuxContainerResources) (NewLimits, error) {
	return NewLimits{LinuxContainerResources: asked}, p.note("UpdateContainer", n.Container.Config.GetMetadata().GetName())
}

// withPlugins is a node with plugins.
func withPlugins(t *testing.T) (*fakeNode, *fakePlugins) {
	t.Helper()
	n, p := newFakeNode(t), &fakePlugins{}
	n.plugins = p
	n.restart()
	return n, p
}

func want(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

// Each step is told once and in order: with overlapping stops, with repeated calls, and
// with a daemon that ends between the stop and the removal.
func TestPluginsAreToldOnce(t *testing.T) {
	n, p := withPlugins(t)
	pod := n.pod("p")
	a, b := n.run(pod, "a"), n.run(pod, "b")
	want(t, "up", p.take(), "RunPodSandbox p",
		"CreateContainer a", "PostCreateContainer a", "StartContainer a", "PostStartContainer a",
		"CreateContainer b", "PostCreateContainer b", "StartContainer b", "PostStartContainer b")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := n.m.StopContainer(t.Context(), a, 0); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	want(t, "stopped", p.take(), "StopContainer a")
	n.shim.exit(b, 3)
	await(t, "the end of b is told", func() bool { return slices.Equal(p.take(), []string{"StopContainer b"}) })
	c := n.run(pod, "c")
	p.take()
	n.restart(func() { n.shim.exit(c, 0) })
	if pods, containers := n.m.Known(); len(pods) != 1 || len(containers) != 0 {
		t.Errorf("the next daemon knows %d pods and %d containers", len(pods), len(containers))
	}
	for _, id := range []string{a, c, a} {
		if err := n.m.RemoveContainer(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	want(t, "removed by another daemon", p.take(), "RemoveContainer a", "StopContainer c", "RemoveContainer c")
	for range 2 {
		if err := n.m.StopPod(t.Context(), pod); err != nil {
			t.Error(err)
		}
	}
	n.restart()
	for range 2 {
		if err := n.m.RemovePod(t.Context(), pod); err != nil {
			t.Error(err)
		}
	}
	want(t, "the pod's end", p.take(), "StopPodSandbox p", "RemoveContainer b", "RemovePodSandbox p")
}

// What was refused leaves nothing, and is told to have ended.
func TestPluginsRefuse(t *testing.T) {
	n, p := withPlugins(t)
	p.refuse = "RunPodSandbox"
	if _, err := n.m.RunPod(t.Context(), podConfig("p"), ""); err == nil {
		t.Error("a refused pod runs")
	}
	want(t, "a refused pod", p.take(), "RunPodSandbox p", "StopPodSandbox p", "RemovePodSandbox p")
	p.refuse = "CreateContainer"
	pod := n.pod("q")
	if _, err := n.m.CreateContainer(t.Context(), pod, containerConfig("a"), nil); err == nil {
		t.Error("a refused container is created")
	}
	want(t, "a refused container", p.take(), "RunPodSandbox q", "CreateContainer a", "StopContainer a", "RemoveContainer a")
	p.refuse = "StartContainer"
	a := n.create(pod, "a")
	if err := n.m.StartContainer(t.Context(), a); err == nil {
		t.Error("a refused start succeeds")
	}
	if st := n.container(a); st.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("the container is %v", st.State)
	}
	await(t, "the end of a is told", func() bool { return slices.Contains(p.take(), "StopContainer a") })
}

// heldPlugins let no plugin connect while something is held, and say so.
type heldPlugins struct {
	fakePlugins
	held chan struct{}
}

func (p *heldPlugins) Hold() func() {
	p.held <- struct{}{}
	return func() { <-p.held }
}

// No pod is visible, and no container can be made in it, before plugins have seen it; and
// plugins that connect wait meanwhile.
func TestPodIsHiddenWhilePluginsAreTold(t *testing.T) {
	n := newFakeNode(t)
	p := &heldPlugins{held: make(chan struct{}, 8)}
	told, proceed := make(chan *PodStatus, 1), make(chan struct{})
	n.plugins = &pausing{p, told, proceed}
	n.restart()
	ran := make(chan error, 1)
	go func() {
		_, err := n.m.RunPod(context.WithoutCancel(t.Context()), podConfig("p"), "")
		ran <- err
	}()
	st := <-told
	if len(p.held) != 1 {
		t.Error("a plugin could connect meanwhile")
	}
	if pods := n.m.Pods(); len(pods) != 0 {
		t.Errorf("listed: %v", pods)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := n.m.CreateContainer(ctx, st.ID, containerConfig("a"), nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("a container of it: %v", err)
	}
	close(proceed)
	if err := <-ran; err != nil || len(n.m.Pods()) != 1 || len(p.held) != 0 {
		t.Errorf("%v, %d pods, %d held", err, len(n.m.Pods()), len(p.held))
	}
}

// pausing waits in the notice of a pod.
type pausing struct {
	*heldPlugins
	told    chan *PodStatus
	proceed chan struct{}
}

func (p *pausing) Pod(_ context.Context, n PodNotice) error {
	if n.Step == PodRun {
		p.told <- n.Pod
		<-p.proceed
	}
	return nil
}
