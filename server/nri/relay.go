package nri

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/sandbox"
)

// Pod implements [sandbox.Plugins].
func (p *Plugins) Pod(ctx context.Context, n sandbox.PodNotice) (err error) {
	if p.none() {
		return nil
	}
	defer survive(&err)
	pod := podOf(n.Pod)
	switch n.Step {
	case sandbox.PodRun:
		err = p.relay.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Pod: pod})
	case sandbox.PodUpdate:
		_, err = p.relay.UpdatePodSandbox(ctx, &api.UpdatePodSandboxRequest{
			Pod: pod, OverheadLinuxResources: resourcesOf(n.Overhead), LinuxResources: resourcesOf(n.Resources),
		})
	case sandbox.PodPostUpdate:
		err = p.relay.PostUpdatePodSandbox(ctx, &api.PostUpdatePodSandboxRequest{Pod: pod})
	case sandbox.PodStop:
		err = p.relay.StopPodSandbox(ctx, &api.StopPodSandboxRequest{Pod: pod})
	case sandbox.PodRemove:
		err = p.relay.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{Pod: pod})
	}
	return p.served.named(err)
}

// Container implements [sandbox.Plugins].
func (p *Plugins) Container(ctx context.Context, n sandbox.ContainerNotice) (heard bool, err error) {
	if p.none() {
		return false, nil
	}
	defer survive(&err)
	pod, ctr := podOf(n.Pod), containerOf(n.Container, nil)
	switch n.Step {
	case sandbox.ContainerPostCreate:
		err = p.relay.PostCreateContainer(ctx, &api.PostCreateContainerRequest{Pod: pod, Container: ctr})
	case sandbox.ContainerStart:
		err = p.relay.StartContainer(ctx, &api.StartContainerRequest{Pod: pod, Container: ctr})
	case sandbox.ContainerPostStart:
		err = p.relay.PostStartContainer(ctx, &api.PostStartContainerRequest{Pod: pod, Container: ctr})
	case sandbox.ContainerPostUpdate:
		err = p.relay.PostUpdateContainer(ctx, &api.PostUpdateContainerRequest{Pod: pod, Container: ctr})
	case sandbox.ContainerStop:
		var answer *api.StopContainerResponse
		if answer, err = p.relay.StopContainer(ctx, &api.StopContainerRequest{Pod: pod, Container: ctr}); err == nil {
			p.updateOthers(ctx, answer.GetUpdate())
		}
	case sandbox.ContainerRemove:
		err = p.relay.RemoveContainer(ctx, &api.RemoveContainerRequest{Pod: pod, Container: ctr})
	}
	return true, p.served.named(err)
}

// Adjust implements [sandbox.Plugins].
func (p *Plugins) Adjust(ctx context.Context, n sandbox.ContainerNotice, spec *specs.Spec) (err error) {
	if p.none() {
		return nil
	}
	defer survive(&err)
	asked, ctx := p.guard.noteEvictions(ctx)
	req := &api.CreateContainerRequest{Pod: podOf(n.Pod), Container: containerOf(n.Container, spec)}
	answer, err := p.relay.CreateContainer(ctx, req)
	if err != nil {
		return p.served.named(err)
	}
	p.evictAll(ctx, asked.list())
	p.updateOthers(ctx, answer.GetUpdate())
	if a := answer.GetAdjust(); a != nil {
		addRemovals(spec, req.GetContainer(), a)
	}
	if err := adjust(spec, answer.GetAdjust(), p.host); err != nil {
		return fmt.Errorf("NRI: what plugins ask to change in the container can't be done: %w", err)
	}
	return nil
}

// Update implements [sandbox.Plugins].
func (p *Plugins) Update(ctx context.Context, n sandbox.ContainerNotice, asked *runtimeapi.LinuxContainerResources) (_ sandbox.NewLimits, err error) {
	unchanged := sandbox.NewLimits{LinuxContainerResources: asked}
	if p.none() {
		return unchanged, nil
	}
	defer survive(&err)
	evictions, ctx := p.guard.noteEvictions(ctx)
	answer, err := p.relay.UpdateContainer(ctx, &api.UpdateContainerRequest{
		Pod: podOf(n.Pod), Container: containerOf(n.Container, nil), LinuxResources: resourcesOf(asked),
	})
	if err != nil {
		return unchanged, p.served.named(err)
	}
	p.evictAll(ctx, evictions.list())
	all := answer.GetUpdate()
	if len(all) == 0 {
		return unchanged, nil
	}
	p.updateOthers(ctx, all[:len(all)-1])
	own := all[len(all)-1].GetLinux().GetResources() // the last one is for the container itself; nil: as asked
	return limitsOf(asked, own)
}

// survive makes an error of a panic. The library trusts what plugins send.
func survive(err *error) {
	if v := recover(); v != nil {
		*err = fmt.Errorf("NRI: the answer of a plugin made the library fail: %v", v)
		klog.Background().Error(*err, "A bug in the NRI library, or what a plugin sent", "stack", string(debug.Stack()))
	}
}

// synchronise tells a plugin what there is, and does what it answers. The library lets no
// verb begin meanwhile. It calls this at its start as well, for the plugins that it has started,
// which may be none: describing all pods for nobody would hold up the start of the daemon. Each
// but the validator, which is no program, was asked for its configuration before.
func (p *Plugins) synchronise(ctx context.Context, tell adaptation.SyncCB) (err error) {
	defer survive(&err)
	if !p.validates && !p.guard.asked.Load() {
		_, err := tell(ctx, nil, nil)
		return err
	}
	knownPods, knownContainers := p.node.Known()
	pods := make([]*api.PodSandbox, 0, len(knownPods))
	for _, s := range knownPods {
		pods = append(pods, podOf(s))
	}
	containers := make([]*api.Container, 0, len(knownContainers))
	for _, c := range knownContainers {
		containers = append(containers, containerOf(c, nil))
	}
	updates, err := tell(ctx, pods, containers)
	if err != nil {
		return err
	}
	p.updateOthers(ctx, updates)
	return nil
}

// updateOthers changes containers other than that of the notice. What fails is logged: the
// container of the notice is not to suffer from it.
func (p *Plugins) updateOthers(ctx context.Context, updates []*api.ContainerUpdate) {
	if failed, err := p.apply(ctx, updates); err != nil {
		klog.FromContext(ctx).Error(err, "Not every update that an NRI plugin asked for could be made", "failed", len(failed))
	}
}

// updateContainers does what a plugin asks for on its own. It gives the updates that
// failed.
func (p *Plugins) updateContainers(ctx context.Context, updates []*api.ContainerUpdate) (_ []*api.ContainerUpdate, err error) {
	defer survive(&err)
	return p.apply(ctx, updates)
}

// apply makes updates, one after the other, within half the time that a plugin has for an
// answer, since a plugin may ask for them while it owes one. A verb of berth that holds the
// container for longer makes the update fail.
func (p *Plugins) apply(ctx context.Context, updates []*api.ContainerUpdate) (failed []*api.ContainerUpdate, err error) {
	if len(updates) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout/2)
	defer cancel()
	for _, u := range updates {
		limits, lerr := limitsOf(nil, u.GetLinux().GetResources())
		if lerr == nil {
			lerr = p.node.SetLimits(ctx, u.GetContainerId(), limits)
		}
		if lerr == nil || u.GetIgnoreFailure() {
			continue
		}
		failed = append(failed, u)
		if err == nil {
			err = fmt.Errorf("NRI: update of container %.80q: %w", u.GetContainerId(), lerr)
		}
	}
	return failed, err
}

// evictAll stops containers as plugins asked for it in their answer.
func (p *Plugins) evictAll(ctx context.Context, evictions []*api.ContainerEviction) {
	for _, e := range evictions {
		p.evict(ctx, e)
	}
}

// evict stops a container at once. Nobody waits for it: the plugin may be the one that has
// to be told of its end.
func (p *Plugins) evict(ctx context.Context, e *api.ContainerEviction) {
	log := klog.FromContext(ctx)
	log.Info("An NRI plugin evicts a container", "container", e.GetContainerId(), "reason", e.GetReason())
	go func() { // ends within evictTime
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), evictTime)
		defer cancel()
		if err := p.node.StopContainer(ctx, e.GetContainerId(), 0); err != nil {
			log.Error(err, "A container that an NRI plugin evicts could not be stopped", "container", e.GetContainerId())
		}
	}()
}

const evictTime = time.Minute
