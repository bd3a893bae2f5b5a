package sandbox

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/sandbox/inflight"
)

// A client may repeat a call whose answer it did not get. While the call runs the repeat
// joins it, see package inflight. Afterwards, also by a later daemon, a call that makes
// something gets the ID of what exists when nothing can tell the difference: the same
// request, and what it made is unused. Every other existing name is ErrExists. The
// kubelet lists before it runs a pod and raises the attempt, so it meets that only by
// mistake.

func runPodCall(cfg *runtimeapi.PodSandboxConfig, handler string) inflight.Call {
	m := cfg.GetMetadata()
	return inflight.Call{
		Name:    fmt.Sprintf("RunPodSandbox of %s/%s uid %s attempt %d", m.GetNamespace(), m.GetName(), m.GetUid(), m.GetAttempt()),
		Request: inflight.Digest(&runtimeapi.RunPodSandboxRequest{Config: cfg, RuntimeHandler: handler}),
	}
}

func createCall(pod *Sandbox, cfg *runtimeapi.ContainerConfig, podConfig *runtimeapi.PodSandboxConfig) inflight.Call {
	m := cfg.GetMetadata()
	return inflight.Call{
		Name:    fmt.Sprintf("CreateContainer of %s attempt %d in %s", m.GetName(), m.GetAttempt(), pod.id),
		Request: inflight.Digest(&runtimeapi.CreateContainerRequest{Config: cfg, SandboxConfig: podConfig}),
	}
}

// madeBefore is the ID of the pod of that name when the call may be a retry of the one
// that made it; "" when there is none of that name.
func (p *podVerbs) madeBefore(ctx context.Context, cfg *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	m := cfg.GetMetadata()
	for _, s := range p.index.podsNamed(podNameOf(m)) {
		st := s.status.Load()
		if st == nil {
			continue // it is being made or removed
		}
		same := st.Handler == handler && proto.Equal(st.Config, cfg)
		if same && st.State == runtimeapi.PodSandboxState_SANDBOX_READY && len(p.index.ContainersOf(s.id)) == 0 {
			klog.FromContext(ctx).Info("The pod sandbox exists and is unused; the call is taken for a retry", "pod", s.id)
			return s.id, nil
		}
		return "", failed(ErrExists, "pod sandbox %s/%s uid %s attempt %d exists as %s in state %s; remove it or raise the attempt",
			m.GetNamespace(), m.GetName(), m.GetUid(), m.GetAttempt(), s.id, st.State)
	}
	return "", nil
}

// madeBefore is the ID of the container of that name when the call may be a retry of
// the one that made it; "" when there is none of that name.
func (v *containerVerbs) madeBefore(ctx context.Context, pod *Sandbox, cfg *runtimeapi.ContainerConfig) (string, error) {
	m := cfg.GetMetadata()
	for _, c := range v.index.containersNamed(containerNameOf(pod.id, m)) {
		st := c.status.Load()
		if st == nil {
			continue // it is being made or removed
		}
		if st.State == runtimeapi.ContainerState_CONTAINER_CREATED && proto.Equal(st.Config, cfg) {
			klog.FromContext(ctx).Info("The container exists and was never started; the call is taken for a retry", "container", c.id)
			return c.id, nil
		}
		return "", failed(ErrExists, "container %s attempt %d of this pod exists as %s in state %s; remove it or raise the attempt",
			m.GetName(), m.GetAttempt(), c.id, st.State)
	}
	return "", nil
}
