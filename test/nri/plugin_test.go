package nri

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/nri/pkg/api"
	nrilog "github.com/containerd/nri/pkg/log"
	"github.com/containerd/nri/pkg/stub"
	"github.com/containerd/ttrpc"
)

// plugin notes everything it is told. What it answers is up to the functions that are set.
type plugin struct {
	name string
	stub stub.Stub

	// before is called for each notice, after it was noted, with its step and the ID of the
	// pod or container. An error refuses the step.
	before func(step, id string) error
	adjust func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error)
	update func(*api.Container, *api.LinuxResources) []*api.ContainerUpdate
	stop   func(*api.Container) []*api.ContainerUpdate
	check  func(*api.ValidateContainerAdjustmentRequest) error
	// client are options of the stub's connection to the runtime, policy its failure policy.
	client []ttrpc.ClientOpts
	server []ttrpc.ServerOpt
	policy *api.FailurePolicy
	conn   net.Conn // to the runtime; nil: one of its own

	mu         sync.Mutex
	told       []string // "STEP pod" or "STEP pod/container"
	ids        []string // of the pod or container, as told
	changed    chan struct{}
	pods       map[string]*api.PodSandbox
	containers map[string]*api.Container
	synced     []string // IDs, of the last synchronisation
	closed     chan struct{}
	closeOnce  sync.Once
}

// silent keeps the stub from writing to the test's output.
type silent struct{}

func (silent) Debugf(context.Context, string, ...any) {}
func (silent) Infof(context.Context, string, ...any)  {}
func (silent) Warnf(context.Context, string, ...any)  {}
func (silent) Errorf(context.Context, string, ...any) {}

var _ nrilog.Logger = silent{}

// connect connects a plugin named INDEX-NAME to a runtime's socket, and disconnects it with
// the test.
func connect(t *testing.T, socket, name string, set func(*plugin)) *plugin {
	t.Helper()
	p := newPlugin(name, set)
	if err := p.start(socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stub.Stop)
	return p
}

func newPlugin(name string, set func(*plugin)) *plugin {
	p := &plugin{
		name: name, changed: make(chan struct{}), closed: make(chan struct{}),
		pods: make(map[string]*api.PodSandbox), containers: make(map[string]*api.Container),
	}
	if set != nil {
		set(p)
	}
	return p
}

func (p *plugin) start(socket string) (err error) {
	index, name, _ := strings.Cut(p.name, "-")
	options := []stub.Option{
		stub.WithPluginIdx(index), stub.WithPluginName(name), stub.WithSocketPath(socket), stub.WithLogger(silent{}),
		stub.WithTTRPCOptions(p.client, p.server), stub.WithOnClose(func() { p.closeOnce.Do(func() { close(p.closed) }) }),
	}
	if p.conn != nil {
		options = append(options, stub.WithConnection(p.conn))
	}
	if p.policy != nil {
		options = append(options, stub.WithFailurePolicy(p.policy))
	}
	if p.stub, err = stub.New(p, options...); err != nil {
		return err
	}
	return p.stub.Start(context.Background())
}

// note is what all notices have in common.
func (p *plugin) note(step string, pod *api.PodSandbox, ctr *api.Container) error {
	what, id := pod.GetName(), pod.GetId()
	p.mu.Lock()
	p.pods[pod.GetId()] = pod
	if ctr != nil {
		what, id = pod.GetName()+"/"+ctr.GetName(), ctr.GetId()
		p.containers[id] = ctr
	}
	p.told, p.ids = append(p.told, step+" "+what), append(p.ids, id)
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	if p.before == nil {
		return nil
	}
	return p.before(step, id)
}

// of are the steps that the plugin was told of a pod and its containers, by the pod's name.
func (p *plugin) of(pod string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(p.told), func(what string) bool {
		_, subject, _ := strings.Cut(what, " ")
		return subject != pod && !strings.HasPrefix(subject, pod+"/")
	})
}

// await waits until a step was told, the first time for "STEP subject".
func (p *plugin) await(t *testing.T, what string) {
	t.Helper()
	ctx := within(t)
	for {
		p.mu.Lock()
		have, changed := slices.Contains(p.told, what), p.changed
		p.mu.Unlock()
		if have {
			return
		}
		select {
		case <-changed:
		case <-p.closed:
			t.Fatalf("plugin %s was cut off before it was told %q", p.name, what)
		case <-ctx.Done():
			t.Fatalf("plugin %s was not told %q, only %q", p.name, what, p.told)
		}
	}
}

// seen is a container as the plugin was last told of it.
func (p *plugin) seen(id string) *api.Container {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.containers[id]
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	p.mu.Lock()
	p.synced = nil
	for _, s := range pods {
		p.synced, p.pods[s.GetId()] = append(p.synced, s.GetId()), s
	}
	for _, c := range containers {
		p.synced, p.containers[c.GetId()] = append(p.synced, c.GetId()), c
	}
	p.mu.Unlock()
	return nil, p.note("Synchronize", &api.PodSandbox{Name: p.name}, nil)
}

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.note("RunPodSandbox", pod, nil)
}

func (p *plugin) UpdatePodSandbox(_ context.Context, pod *api.PodSandbox, overhead, resources *api.LinuxResources) error {
	return p.note(fmt.Sprintf("UpdatePodSandbox[%d,%d]", overhead.GetCpu().GetQuota().GetValue(), resources.GetCpu().GetQuota().GetValue()), pod, nil)
}

func (p *plugin) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.note("PostUpdatePodSandbox", pod, nil)
}

func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.note("StopPodSandbox", pod, nil)
}

func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.note("RemovePodSandbox", pod, nil)
}

func (p *plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, ctr *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	if err := p.note("CreateContainer", pod, ctr); err != nil || p.adjust == nil {
		return nil, nil, err
	}
	return p.adjust(pod, ctr)
}

func (p *plugin) PostCreateContainer(_ context.Context, pod *api.PodSandbox, ctr *api.Container) error {
	return p.note("PostCreateContainer", pod, ctr)
}

func (p *plugin) StartContainer(_ context.Context, pod *api.PodSandbox, ctr *api.Container) error {
	return p.note("StartContainer", pod, ctr)
}

func (p *plugin) PostStartContainer(_ context.Context, pod *api.PodSandbox, ctr *api.Container) error {
	return p.note("PostStartContainer", pod, ctr)
}

func (p *plugin) UpdateContainer(_ context.Context, pod *api.PodSandbox, ctr *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	if err := p.note("UpdateContainer", pod, ctr); err != nil || p.update == nil {
		return nil, err
	}
	return p.update(ctr, r), nil
}

func (p *plugin) PostUpdateContainer(_ context.Context, pod *api.PodSandbox, ctr *api.Container) error {
	return p.note("PostUpdateContainer", pod, ctr)
}

func (p *plugin) StopContainer(_ context.Context, pod *api.PodSandbox, ctr *api.Container) ([]*api.ContainerUpdate, error) {
	if err := p.note("StopContainer", pod, ctr); err != nil || p.stop == nil {
		return nil, err
	}
	return p.stop(ctr), nil
}

func (p *plugin) RemoveContainer(_ context.Context, pod *api.PodSandbox, ctr *api.Container) error {
	return p.note("RemoveContainer", pod, ctr)
}

func (p *plugin) ValidateContainerAdjustment(_ context.Context, req *api.ValidateContainerAdjustmentRequest) error {
	if p.check == nil {
		return nil
	}
	return p.check(req)
}
