package nri

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// shares asks for CPU shares of a container.
func shares(id string, n uint64) *api.ContainerUpdate {
	u := &api.ContainerUpdate{}
	u.SetContainerId(id)
	u.SetLinuxCPUShares(n)
	return u
}

// Plugins change what an update sets, and other containers at each step that lets them;
// and they ask for updates on their own.
func TestUpdates(t *testing.T) {
	p, ended, b := updates(t, shared)
	pids := shares(b.ID, 500)
	pids.SetLinuxPidLimits(55) // the library loses this one in answers
	if _, err := p.stub.UpdateContainers([]*api.ContainerUpdate{pids}); err != nil {
		t.Error(err)
	}
	p.wantLimit(t, b, "pids", "pids.max", "55")
	_, err := p.stub.UpdateContainers([]*api.ContainerUpdate{shares(ended.ID, 500)})
	if err == nil || !strings.Contains(err.Error(), ended.ID) {
		t.Errorf("update of an ended container: %v", err)
	}
	ignored := shares(ended.ID, 500)
	ignored.IgnoreFailure = true
	if failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{ignored, shares(b.ID, 600)}); err != nil || len(failed) != 0 {
		t.Errorf("%v, %v", failed, err)
	}
	p.wantLimit(t, b, "cpu", "cpu.shares", "600")
}

// wantLimit compares a file of a container's cgroup.
func (p *plugin) wantLimit(t *testing.T, c *client.Container, controller, onV1, value string) {
	t.Helper()
	if v2() {
		t.Skip("the values below are those of cgroup v1")
	}
	if got := cgroupFile(t, int(p.seen(c.ID).GetPid()), controller, onV1); got != value {
		t.Errorf("%s: %s, want %s", onV1, got, value)
	}
}

// updates has a plugin change limits at each step that lets it, and on its own. It returns
// the plugin, a container that ended and one that runs.
func updates(t *testing.T, rt *runtime) (_ *plugin, ended, running *client.Container) {
	t.Helper()
	var other atomic.Value
	p := connect(t, rt.socket, "20-updater", func(p *plugin) {
		p.update = func(c *api.Container, r *api.LinuxResources) []*api.ContainerUpdate {
			own := &api.ContainerUpdate{}
			own.SetContainerId(c.GetId())
			own.SetLinuxCPUQuota(r.GetCpu().GetQuota().GetValue() / 2)
			return []*api.ContainerUpdate{own, shares(other.Load().(string), 200)}
		}
		p.adjust = func(_ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
			if c.GetName() == "creates" {
				return nil, []*api.ContainerUpdate{shares(other.Load().(string), 300)}, nil
			}
			return nil, nil, nil
		}
		p.stop = func(*api.Container) []*api.ContainerUpdate {
			return []*api.ContainerUpdate{shares(other.Load().(string), 400)}
		}
	})
	pod := rt.pod(t, "updated")
	b := pod.Start(client.Shell("b", "exec sleep 1000"))
	other.Store(b.ID)
	a := pod.Start(client.Shell("a", "exec sleep 1000"))
	r := &runtimeapi.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 77}
	if _, err := rt.Runtime.UpdateContainerResources(within(t), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: a.ID, Linux: r}); err != nil {
		t.Fatal(err)
	}
	p.wantLimit(t, a, "cpu", "cpu.cfs_quota_us", "25000")
	p.wantLimit(t, a, "cpu", "cpu.shares", "77")
	p.wantLimit(t, b, "cpu", "cpu.shares", "200")
	pod.Create(client.Shell("creates", "exit 0"))
	p.wantLimit(t, b, "cpu", "cpu.shares", "300")
	a.Stop(0)
	p.wantLimit(t, b, "cpu", "cpu.shares", "400")
	if failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{shares(b.ID, 500)}); err != nil || len(failed) != 0 {
		t.Errorf("%v, %v", failed, err)
	}
	p.wantLimit(t, b, "cpu", "cpu.shares", "500")
	return p, a, b
}

// evict makes the stub, which has no method for it, ask for the end of a container.
func evict(id *atomic.Value) ttrpc.ClientOpts {
	return ttrpc.WithUnaryClientInterceptor(func(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, _ *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
		if victim, ok := id.Load().(string); ok && req.GetMethod() == "UpdateContainers" {
			body := &api.UpdateContainersRequest{Evict: []*api.ContainerEviction{{ContainerId: victim, Reason: "it is too loud"}}}
			var err error
			if req.Payload, err = proto.Marshal(body); err != nil {
				return err
			}
		}
		return invoke(ctx, req, resp)
	})
}

// A plugin evicts a container on its own, and another by its answer to a creation.
func TestEvictions(t *testing.T) {
	t.Run("by itself", func(t *testing.T) {
		var victim atomic.Value
		p := connect(t, shared.socket, "20-evictor", func(p *plugin) { p.client = []ttrpc.ClientOpts{evict(&victim)} })
		a := shared.pod(t, "evicted-alone").Start(client.Shell("a", "exec sleep 1000"))
		victim.Store(a.ID)
		if _, err := p.stub.UpdateContainers(nil); err != nil {
			t.Fatal(err)
		}
		p.await(t, "StopContainer evicted-alone/a")
		if st := a.Ended(); st.GetExitCode() != 137 {
			t.Errorf("a ended with %d", st.GetExitCode())
		}
	})
	t.Run("by an answer", testEvictionByAnswer)
}

func testEvictionByAnswer(t *testing.T) {
	var onCreate atomic.Value
	answer := ttrpc.WithUnaryServerInterceptor(func(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
		out, err := method(ctx, unmarshal)
		if created, ok := out.(*api.CreateContainerResponse); ok {
			if id, ok := onCreate.Load().(string); ok {
				created.Evict = []*api.ContainerEviction{{ContainerId: id, Reason: "its place is needed"}}
			}
		}
		return out, err
	})
	p := connect(t, shared.socket, "20-evictor", func(p *plugin) {
		p.server = []ttrpc.ServerOpt{answer}
	})
	pod := shared.pod(t, "evicted")
	b := pod.Start(client.Shell("b", "exec sleep 1000"))
	onCreate.Store(b.ID)
	pod.Create(client.Shell("c", "exit 0"))
	if st := b.Ended(); st.GetExitCode() != 137 {
		t.Errorf("b ended with %d", st.GetExitCode())
	}
	p.await(t, "StopContainer evicted/b")
}

// A validator sees who asked for what, and its refusal fails the creation.
func TestValidator(t *testing.T) { validator(t, shared) }

// hook has a plugin add a hook to each container.
func hook(p *plugin) {
	p.adjust = func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		a := &api.ContainerAdjustment{}
		a.AddHooks(&api.Hooks{Prestart: []*api.Hook{{Path: "/bin/true"}}})
		return a, nil, nil
	}
}

func validator(t *testing.T, r *runtime) {
	t.Helper()
	connect(t, r.socket, "20-hooker", hook)
	connect(t, r.socket, "90-validator", func(p *plugin) {
		p.check = func(req *api.ValidateContainerAdjustmentRequest) error {
			if owner, asked := req.GetOwners().HooksOwner(req.GetContainer().GetId()); asked {
				return &refusal{"no hooks of " + owner}
			}
			return nil
		}
	})
	_, err := r.pod(t, "validated").TryCreate(client.Shell("a", "exit 0"))
	if err == nil || !strings.Contains(err.Error(), "no hooks of 20-hooker") || !strings.Contains(err.Error(), "90-validator") {
		t.Errorf("the error is %v", err)
	}
}

// The default validator refuses what its keys name.
func TestDefaultValidator(t *testing.T) {
	r := own(t, "--nri-reject", "hooks", "--nri-required-plugins", "20-hooker", "--nri-tolerate-missing-annotation", "may-miss")
	pod := r.pod(t, "default-validator")
	if _, err := pod.TryCreate(client.Shell("a", "exit 0")); err == nil || !strings.Contains(err.Error(), `required plugin "20-hooker" not present`) {
		t.Errorf("without a required plugin: %v", err)
	}
	config := r.kit(t).PodConfig("tolerant")
	config.Annotations = map[string]string{"may-miss": "true"}
	tolerant := r.kit(t).Run(config)
	defer tolerant.End()
	tolerant.Create(client.Shell("a", "exit 0"))
	connect(t, r.socket, "20-hooker", hook)
	if _, err := pod.TryCreate(client.Shell("a", "exit 0")); err == nil || !strings.Contains(err.Error(), "20-hooker") || !strings.Contains(err.Error(), "hook injection") {
		t.Errorf("with a hook: %v", err)
	}
}

type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }
