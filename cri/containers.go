package cri

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

func (s *runtimeService) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	if err := checkID("pod_sandbox_id", req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	if req.GetConfig() == nil {
		return nil, invalid("config is missing; give the container's configuration")
	}
	pod, err := s.opt.States.Pod(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if err := checkContainerConfig(req.GetConfig(), pod.Config); err != nil {
		return nil, err
	}
	podConfig := req.GetSandboxConfig()
	if podConfig == nil {
		podConfig = pod.Config
	}
	m := req.GetConfig().GetMetadata()
	key := fmt.Sprintf("CreateContainer of %s attempt %d in %s", m.GetName(), m.GetAttempt(), pod.ID)
	id, err := s.flights.do(ctx, key, digest(req), 0, func(ctx context.Context) (string, error) {
		if id, err := s.existingContainer(ctx, pod.ID, req.GetConfig()); id != "" || err != nil {
			return id, err
		}
		return s.opt.Containers.CreateContainer(ctx, pod.ID, req.GetConfig(), podConfig)
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

// existingContainer is the container of the same name, when the request may be
// a retry of the one that made it; see "Retries" in doc.go.
func (s *Server) existingContainer(ctx context.Context, podID string, want *runtimeapi.ContainerConfig) (string, error) {
	for _, c := range s.containersOf(podID) {
		if !proto.Equal(c.Config.GetMetadata(), want.GetMetadata()) {
			continue
		}
		if c.State == runtimeapi.ContainerState_CONTAINER_CREATED && proto.Equal(c.Config, want) {
			klog.FromContext(ctx).Info("The container exists and was never started; the call is taken for a retry", "container", c.ID)
			return c.ID, nil
		}
		return "", status.Errorf(codes.AlreadyExists, "container %s attempt %d of this pod exists as %s in state %s; remove it or raise the attempt",
			want.GetMetadata().GetName(), want.GetMetadata().GetAttempt(), c.ID, c.State)
	}
	return "", nil
}

func (s *runtimeService) StartContainer(ctx context.Context, req *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	id := req.GetContainerId()
	if err := checkID("container_id", id); err != nil {
		return nil, err
	}
	err := s.flights.change(ctx, "StartContainer of "+id, req, func(ctx context.Context) error {
		return s.opt.Containers.StartContainer(ctx, id)
	})
	return &runtimeapi.StartContainerResponse{}, err
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
	key := fmt.Sprintf("StopContainer of %s within %s", id, grace)
	err = s.flights.change(ctx, key, req, func(ctx context.Context) error {
		return s.opt.Containers.StopContainer(ctx, id, grace)
	})
	return &runtimeapi.StopContainerResponse{}, err
}

func (s *runtimeService) RemoveContainer(ctx context.Context, req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	id := req.GetContainerId()
	if err := checkID("container_id", id); err != nil {
		return nil, err
	}
	err := s.flights.change(ctx, "RemoveContainer of "+id, req, func(ctx context.Context) error {
		return s.opt.Containers.RemoveContainer(ctx, id)
	})
	return &runtimeapi.RemoveContainerResponse{}, err
}

func (s *runtimeService) UpdateContainerResources(ctx context.Context, req *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	id := req.GetContainerId()
	if err := firstError(checkID("container_id", id), checkResources(req.GetLinux()), checkPairs("annotations", req.GetAnnotations())); err != nil {
		return nil, err
	}
	if req.GetLinux() == nil {
		return nil, invalid("linux is missing; give the new resources")
	}
	key := fmt.Sprintf("UpdateContainerResources of %s to %.12s", id, digest(req))
	err := s.flights.change(ctx, key, req, func(ctx context.Context) error {
		return s.opt.Running.UpdateContainer(ctx, id, req.GetLinux(), req.GetAnnotations())
	})
	return &runtimeapi.UpdateContainerResourcesResponse{}, err
}

func (s *runtimeService) ReopenContainerLog(ctx context.Context, req *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	id := req.GetContainerId()
	if err := checkID("container_id", id); err != nil {
		return nil, err
	}
	err := s.flights.change(ctx, "ReopenContainerLog of "+id, req, func(ctx context.Context) error {
		return s.opt.Running.ReopenLog(ctx, id)
	})
	return &runtimeapi.ReopenContainerLogResponse{}, err
}

func (s *runtimeService) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	if err := checkID("container_id", req.GetContainerId()); err != nil {
		return nil, err
	}
	c, err := s.opt.States.Container(req.GetContainerId())
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
	for _, c := range s.opt.States.Containers() {
		if matchContainer(c, f) {
			out = append(out, s.encodeContainer(c))
		}
	}
	return out
}

func (s *runtimeService) CheckpointContainer(context.Context, *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	return nil, notImplemented("berth does not checkpoint containers")
}

func (s *runtimeService) CheckpointPod(context.Context, *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	return nil, notImplemented("berth does not checkpoint pods")
}

func (s *runtimeService) RestorePod(context.Context, *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return nil, notImplemented("berth does not restore pods from checkpoints")
}
