package cri

import (
	"context"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (s *runtimeService) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	if err := checkPodConfig(req.GetConfig()); err != nil {
		return nil, err
	}
	id, err := s.opt.Domain.RunPod(ctx, req.GetConfig(), req.GetRuntimeHandler())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (s *runtimeService) StopPodSandbox(ctx context.Context, req *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	id := req.GetPodSandboxId()
	if err := checkID("pod_sandbox_id", id); err != nil {
		return nil, err
	}
	return &runtimeapi.StopPodSandboxResponse{}, s.opt.Domain.StopPod(ctx, id)
}

func (s *runtimeService) RemovePodSandbox(ctx context.Context, req *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	id := req.GetPodSandboxId()
	if err := checkID("pod_sandbox_id", id); err != nil {
		return nil, err
	}
	return &runtimeapi.RemovePodSandboxResponse{}, s.opt.Domain.RemovePod(ctx, id)
}

func (s *runtimeService) UpdatePodSandboxResources(ctx context.Context, req *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	id := req.GetPodSandboxId()
	if err := checkID("pod_sandbox_id", id); err != nil {
		return nil, err
	}
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, s.opt.Domain.UpdatePodResources(ctx, id, req.GetOverhead(), req.GetResources())
}

// PodSandboxStatus tells no time that the statuses of the pod's containers are of. A kubelet with
// the gate EventedPLEG takes these only if there is a time, and of Kubernetes 1.37 then knows no
// active container of the pod: it starts init containers again that have ended (GetPodStatus and
// computeInitContainerActions of its package kuberuntime). Without the time it asks for each
// container, as it does without the gate.
func (s *runtimeService) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	if err := checkID("pod_sandbox_id", req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	p, err := s.opt.Domain.Pod(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.PodSandboxStatusResponse{
		Status:             encodePodStatus(p),
		ContainersStatuses: s.encodeContainerStatuses(s.opt.Domain.ContainersOf(p.ID)),
	}
	if req.GetVerbose() {
		if resp.Info, err = podInfo(p); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

func (s *runtimeService) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: fit(s.listPods(req.GetFilter()), shrinkPod)}, nil
}

func (s *runtimeService) StreamPodSandboxes(req *runtimeapi.StreamPodSandboxesRequest, out grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	return inBatches(s.listPods(req.GetFilter()), func(pods []*runtimeapi.PodSandbox) error {
		return out.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: pods})
	})
}

func (s *Server) listPods(f *runtimeapi.PodSandboxFilter) []*runtimeapi.PodSandbox {
	var out []*runtimeapi.PodSandbox
	for _, p := range s.opt.Domain.Pods() {
		if matchPod(p, f) {
			out = append(out, encodePod(p))
		}
	}
	return out
}
