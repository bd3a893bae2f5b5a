package cri

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/sandbox"
)

func podKey(m *runtimeapi.PodSandboxMetadata) string {
	return fmt.Sprintf("RunPodSandbox of %s/%s uid %s attempt %d", m.GetNamespace(), m.GetName(), m.GetUid(), m.GetAttempt())
}

func (s *runtimeService) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	if err := checkPodConfig(req.GetConfig()); err != nil {
		return nil, err
	}
	id, err := s.flights.do(ctx, podKey(req.GetConfig().GetMetadata()), digest(req), 0, func(ctx context.Context) (string, error) {
		if id, err := s.existingPod(ctx, req); id != "" || err != nil {
			return id, err
		}
		return s.opt.Pods.RunPod(ctx, req.GetConfig(), req.GetRuntimeHandler())
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// existingPod is the pod of the same name, when the request may be a retry of
// the one that made it; see "Retries" in doc.go.
func (s *Server) existingPod(ctx context.Context, req *runtimeapi.RunPodSandboxRequest) (string, error) {
	want := req.GetConfig().GetMetadata()
	for _, p := range s.opt.States.Pods() {
		if !proto.Equal(p.Config.GetMetadata(), want) {
			continue
		}
		same := p.Handler == req.GetRuntimeHandler() && proto.Equal(p.Config, req.GetConfig())
		if same && p.State == runtimeapi.PodSandboxState_SANDBOX_READY && len(s.containersOf(p.ID)) == 0 {
			klog.FromContext(ctx).Info("The pod sandbox exists and is unused; the call is taken for a retry", "pod", p.ID)
			return p.ID, nil
		}
		return "", status.Errorf(codes.AlreadyExists, "pod sandbox %s/%s uid %s attempt %d exists as %s in state %s; remove it or raise the attempt",
			want.GetNamespace(), want.GetName(), want.GetUid(), want.GetAttempt(), p.ID, p.State)
	}
	return "", nil
}

func (s *runtimeService) StopPodSandbox(ctx context.Context, req *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	id := req.GetPodSandboxId()
	if err := checkID("pod_sandbox_id", id); err != nil {
		return nil, err
	}
	err := s.flights.change(ctx, "StopPodSandbox of "+id, req, func(ctx context.Context) error {
		return s.opt.Pods.StopPod(ctx, id)
	})
	return &runtimeapi.StopPodSandboxResponse{}, err
}

func (s *runtimeService) RemovePodSandbox(ctx context.Context, req *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	id := req.GetPodSandboxId()
	if err := checkID("pod_sandbox_id", id); err != nil {
		return nil, err
	}
	err := s.flights.change(ctx, "RemovePodSandbox of "+id, req, func(ctx context.Context) error {
		return s.opt.Pods.RemovePod(ctx, id)
	})
	return &runtimeapi.RemovePodSandboxResponse{}, err
}

func (s *runtimeService) UpdatePodSandboxResources(ctx context.Context, req *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	id := req.GetPodSandboxId()
	if err := firstError(checkID("pod_sandbox_id", id), checkResources(req.GetOverhead()), checkResources(req.GetResources())); err != nil {
		return nil, err
	}
	key := fmt.Sprintf("UpdatePodSandboxResources of %s to %.12s", id, digest(req))
	err := s.flights.change(ctx, key, req, func(ctx context.Context) error {
		return s.opt.Pods.UpdatePodResources(ctx, id, req.GetOverhead(), req.GetResources())
	})
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, err
}

func (s *runtimeService) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	if err := checkID("pod_sandbox_id", req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	p, err := s.opt.States.Pod(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.PodSandboxStatusResponse{
		Status:             encodePodStatus(p),
		ContainersStatuses: s.encodeContainerStatuses(s.containersOf(p.ID)),
		Timestamp:          time.Now().UnixNano(),
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
	for _, p := range s.opt.States.Pods() {
		if matchPod(p, f) {
			out = append(out, encodePod(p))
		}
	}
	return out
}

// containersOf are the containers of a pod, newest first.
func (s *Server) containersOf(podID string) []*sandbox.ContainerStatus {
	var out []*sandbox.ContainerStatus
	for _, c := range s.opt.States.Containers() {
		if c.PodID == podID {
			out = append(out, c)
		}
	}
	return out
}
