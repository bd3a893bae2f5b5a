package cri

import (
	"context"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (s *runtimeService) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	if err := checkID("pod_sandbox_id", req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	if err := checkContainerConfig(req.GetConfig()); err != nil {
		return nil, err
	}
	pod, err := s.opt.Domain.Pod(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	podConfig := req.GetSandboxConfig()
	if podConfig == nil {
		podConfig = pod.Config
	}
	id, err := s.opt.Domain.CreateContainer(ctx, pod.ID, req.GetConfig(), podConfig)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

func (s *runtimeService) StartContainer(ctx context.Context, req *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	id := req.GetContainerId()
	if err := checkID("container_id", id); err != nil {
		return nil, err
	}
	return &runtimeapi.StartContainerResponse{}, s.opt.Domain.StartContainer(ctx, id)
}

// StopContainer with another timeout is another call: the shorter grace wins.
func (s *runtimeService) StopContainer(ctx context.Context, req *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	id := req.GetContainerId()
	if err := checkID("container_id", id); err != nil {
		return nil, err
	}
	grace, err := seconds(req.GetTimeout())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.StopContainerResponse{}, s.opt.Domain.StopContainer(ctx, id, grace)
}

func (s *runtimeService) RemoveContainer(ctx context.Context, req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	id := req.GetContainerId()
	if err := checkID("container_id", id); err != nil {
		return nil, err
	}
	return &runtimeapi.RemoveContainerResponse{}, s.opt.Domain.RemoveContainer(ctx, id)
}

func (s *runtimeService) UpdateContainerResources(ctx context.Context, req *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	id := req.GetContainerId()
	if err := firstError(checkID("container_id", id), checkPairs("annotations", req.GetAnnotations())); err != nil {
		return nil, err
	}
	if req.GetLinux() == nil {
		return nil, invalid("linux is missing; give the new resources")
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, s.opt.Domain.UpdateContainer(ctx, id, req.GetLinux(), req.GetAnnotations())
}

func (s *runtimeService) ReopenContainerLog(ctx context.Context, req *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	id := req.GetContainerId()
	if err := checkID("container_id", id); err != nil {
		return nil, err
	}
	return &runtimeapi.ReopenContainerLogResponse{}, s.opt.Domain.ReopenLog(ctx, id)
}

func (s *runtimeService) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	if err := checkID("container_id", req.GetContainerId()); err != nil {
		return nil, err
	}
	c, err := s.opt.Domain.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.ContainerStatusResponse{Status: s.encodeContainerStatus(c)}
	if req.GetVerbose() {
		if resp.Info, err = containerInfo(c); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

func (s *runtimeService) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: fit(s.listContainers(req.GetFilter()), shrinkContainer)}, nil
}

func (s *runtimeService) StreamContainers(req *runtimeapi.StreamContainersRequest, out grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	return inBatches(s.listContainers(req.GetFilter()), func(list []*runtimeapi.Container) error {
		return out.Send(&runtimeapi.StreamContainersResponse{Containers: list})
	})
}

func (s *Server) listContainers(f *runtimeapi.ContainerFilter) []*runtimeapi.Container {
	var out []*runtimeapi.Container
	for _, c := range s.opt.Domain.Containers() {
		if matchContainer(c, f) {
			out = append(out, s.encodeContainer(c))
		}
	}
	return out
}

// CheckpointContainer and the next two are refused in the words of a server that lacks them:
// Kubernetes' node tests take those for "not supported", and any others for a failure.
func (s *runtimeService) CheckpointContainer(context.Context, *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	return nil, notImplemented("method CheckpointContainer not implemented")
}

func (s *runtimeService) CheckpointPod(context.Context, *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	return nil, notImplemented("method CheckpointPod not implemented")
}

func (s *runtimeService) RestorePod(context.Context, *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return nil, notImplemented("method RestorePod not implemented")
}
