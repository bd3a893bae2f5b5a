package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/oci/shimapi"
	"berth/sandbox/inflight"
)

// UpdateContainer changes the limits and the oom_score_adj of a created or running
// container; fields that are zero keep their value. Nothing of berth acts on the
// annotations: the last ones are kept and shown.
func (v *containerVerbs) UpdateContainer(ctx context.Context, id string, res *runtimeapi.LinuxContainerResources, annotations map[string]string) error {
	digest := inflight.Digest(&runtimeapi.UpdateContainerResourcesRequest{Linux: res, Annotations: annotations})
	if err := oci.CheckResources(res); err != nil {
		return asDomain(err)
	}
	call := inflight.Call{Name: fmt.Sprintf("UpdateContainerResources of %s to %.12s", id, digest), Request: digest}
	_, err := v.calls.Do(ctx, call, func(ctx context.Context) (string, error) { return "", v.update(ctx, id, res, annotations) })
	return err
}

func (v *containerVerbs) update(ctx context.Context, id string, res *runtimeapi.LinuxContainerResources, annotations map[string]string) error {
	c, err := v.hold(ctx, id)
	if err != nil {
		return err
	}
	defer c.slot.free()
	release := v.tell.plugins.Hold()
	defer release()
	limits, err := v.tell.plugins.Update(ctx, notice(c, ""), res)
	if err != nil {
		return err
	}
	if err := v.setLimits(ctx, c, limits, annotations); err != nil {
		return err
	}
	v.tell.tellOnly(ctx, c, ContainerPostUpdate)
	return nil
}

// SetLimits changes the limits of a created or running container as a plugin asks for it.
// Plugins are not told of it.
func (v *containerVerbs) SetLimits(ctx context.Context, id string, limits NewLimits) error {
	if err := oci.CheckResources(limits.LinuxContainerResources); err != nil {
		return asDomain(err)
	}
	c, err := v.hold(ctx, id)
	if err != nil {
		return err
	}
	defer c.slot.free()
	return v.setLimits(ctx, c, limits, nil)
}

// hold finds a container that can be updated, and takes its slot, which the caller frees.
// After an error nothing is held.
func (v *containerVerbs) hold(ctx context.Context, id string) (*Container, error) {
	c, err := v.index.container(id)
	if err != nil {
		return nil, err
	}
	if err := c.slot.take(ctx); err != nil {
		return nil, err
	}
	if _, err := c.guard(verbUpdate); err != nil {
		c.slot.free()
		return nil, err
	}
	return c, nil
}

// setLimits changes the limits of a container whose slot is held, and records them.
func (v *containerVerbs) setLimits(ctx context.Context, c *Container, limits NewLimits, annotations map[string]string) error {
	spec, err := v.updateProcesses(ctx, c, c.rec.get().Spec, limits)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode spec: %w", err)
	}
	return c.change(written, func(rec *containerRecord) {
		rec.setSpec(raw)
		rec.Unenforced = slices.Compact(slices.Sorted(slices.Values(slices.Concat(rec.Unenforced, oci.Unenforced(limits.LinuxContainerResources, v.host)))))
		if len(annotations) > 0 {
			rec.UpdateAnnotations = annotations
		}
	})
}

// updateProcesses has the shim change what runs, and gives the spec that fits it.
func (v *containerVerbs) updateProcesses(ctx context.Context, c *Container, raw json.RawMessage, limits NewLimits) (*specs.Spec, error) {
	var spec specs.Spec
	err := json.Unmarshal(raw, &spec)
	if err != nil {
		return nil, fmt.Errorf("read the container's spec: %w", err)
	}
	res := limits.LinuxContainerResources
	if spec.Linux.Resources, err = oci.UpdateResources(spec.Linux.Resources, res, v.host); err != nil {
		return nil, asDomain(err)
	}
	oci.AddLimits(spec.Linux.Resources, limits.More)
	shim, err := c.pod.shimIn(v.shims)
	if err != nil {
		return nil, err
	}
	req := &shimapi.UpdateRequest{ID: c.id, Resources: spec.Linux.Resources, OOMScoreAdj: oci.UpdateOOMScoreAdj(res, v.host)}
	if err := shim.Update(ctx, req); err != nil {
		return nil, fmt.Errorf("update container %s: %w", c.id, v.teardown.refusal(c, err))
	}
	if req.OOMScoreAdj != nil {
		spec.Process.OOMScoreAdj = req.OOMScoreAdj
	}
	return &spec, nil
}

// UpdatePodResources changes a pod's overhead and resources (KEP-5419), which the verbose
// status then shows; nil ones keep their value. A cgroup that the client named stays as the
// client has written it; see [podLimits].
func (p *podVerbs) UpdatePodResources(ctx context.Context, id string, overhead, resources *runtimeapi.LinuxContainerResources) error {
	overhead, resources = clampLimits(overhead), clampLimits(resources)
	digest := inflight.Digest(&runtimeapi.UpdatePodSandboxResourcesRequest{Overhead: overhead, Resources: resources})
	for _, r := range []*runtimeapi.LinuxContainerResources{overhead, resources} {
		if err := oci.CheckResources(r); err != nil {
			return asDomain(err)
		}
	}
	call := inflight.Call{Name: fmt.Sprintf("UpdatePodSandboxResources of %s to %.12s", id, digest), Request: digest}
	_, err := p.calls.Do(ctx, call, func(ctx context.Context) (string, error) { return "", p.update(ctx, id, overhead, resources) })
	return err
}

// clampLimits gives a copy in which a limit below -1 is -1, no limit. The kubelet of 1.37
// reads what it sends from the pod's cgroup, where no limit is -1 to it, and subtracts the
// pod's overhead without a look at the sign.
func clampLimits(r *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	if r == nil {
		return nil
	}
	out := proto.Clone(r).(*runtimeapi.LinuxContainerResources)
	for _, limit := range []*int64{&out.CpuQuota, &out.MemoryLimitInBytes, &out.MemorySwapLimitInBytes} {
		*limit = max(*limit, -1)
	}
	return out
}

func (p *podVerbs) update(ctx context.Context, id string, overhead, resources *runtimeapi.LinuxContainerResources) error {
	s, err := p.index.pod(id)
	if err != nil {
		return err
	}
	if err := s.slot.take(ctx); err != nil {
		return err
	}
	defer s.slot.free()
	if err := s.guard(verbUpdatePod); err != nil {
		return err
	}
	cfg := proto.Clone(s.rec.get().config).(*runtimeapi.PodSandboxConfig)
	if cfg.Linux == nil {
		cfg.Linux = &runtimeapi.LinuxPodSandboxConfig{}
	}
	if overhead != nil {
		cfg.Linux.Overhead = overhead
	}
	if resources != nil {
		cfg.Linux.Resources = resources
	}
	enc, err := encodeConfig(cfg)
	if err != nil {
		return err
	}
	release := p.tell.plugins.Hold()
	defer release()
	before := PodNotice{Step: PodUpdate, Pod: s.snapshot(), Overhead: overhead, Resources: resources}
	if err := p.tell.plugins.Pod(ctx, before); err != nil {
		return err
	}
	if err := p.limit(ctx, s, cfg); err != nil {
		return err
	}
	if err := s.change(written, func(rec *podRecord) { rec.Config, rec.config = enc, cfg }); err != nil {
		return err
	}
	p.tell.podUpdated(ctx, s)
	return nil
}

// limit has the shim limit the pod's cgroup, if that is berth's to do.
func (p *podVerbs) limit(ctx context.Context, s *Sandbox, cfg *runtimeapi.PodSandboxConfig) error {
	limits, err := podLimits(cfg, p.host, cgroupParent(p.host, s.rec.get()))
	if err != nil || limits == nil {
		return err
	}
	shim, err := s.shimIn(p.teardown.shims)
	if err != nil {
		return err
	}
	if err := shim.UpdatePod(ctx, &shimapi.UpdatePodRequest{ID: s.id, Limits: *limits}); err != nil {
		return fmt.Errorf("limit pod %s: %w", s.id, asDomain(err))
	}
	return nil
}
