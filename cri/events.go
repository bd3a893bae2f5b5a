package cri

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
	"berth/sandbox/inflight"
)

// GetContainerEvents sends every change until the client goes or berth has
// drained. A client that reads too slowly is told to come again and list, rather than miss something.
func (s *runtimeService) GetContainerEvents(_ *runtimeapi.GetEventsRequest, out grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	ctx, cancel := context.WithCancel(out.Context())
	defer cancel()
	stopping := s.opt.Calls.Lifetime()
	defer context.AfterFunc(stopping, cancel)()
	events := s.opt.Domain.Subscribe(ctx)
	for e := range events {
		if err := out.Send(s.encodeEvent(e)); err != nil {
			return err
		}
	}
	switch {
	case stopping.Err() != nil:
		return fmt.Errorf("%w; retry when it is up again", inflight.ErrStopping)
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return status.Error(codes.ResourceExhausted, "events were lost because they were read too slowly; subscribe again, then list")
}

// encodeEvent adds the statuses as they are now. The pod's is never nil, even
// when it has been removed: the kubelet reads its metadata unasked.
func (s *Server) encodeEvent(e sandbox.Event) *runtimeapi.ContainerEventResponse {
	resp := &runtimeapi.ContainerEventResponse{
		ContainerId:        e.ContainerID,
		ContainerEventType: e.Type,
		CreatedAt:          e.At.UnixNano(),
		PodSandboxStatus:   &runtimeapi.PodSandboxStatus{Id: e.PodID, State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY, Metadata: &runtimeapi.PodSandboxMetadata{}},
		ContainersStatuses: s.encodeContainerStatuses(s.opt.Domain.ContainersOf(e.PodID)),
	}
	if p, err := s.opt.Domain.Pod(e.PodID); err == nil {
		resp.PodSandboxStatus = encodePodStatus(p)
	} else if e.Pod != nil {
		resp.PodSandboxStatus = encodePodStatus(e.Pod)
		resp.PodSandboxStatus.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	}
	return resp
}
