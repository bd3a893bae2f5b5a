package cri

import (
	"context"
	"path"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/cri/containerdview"
	"berth/cri/operator"
	"berth/sandbox/inflight"
)

// slowCall is how long a call may take before it is logged whatever the level.
const slowCall = 5 * time.Second

// early are the calls that are answered before recovery is done.
var early = map[string]bool{
	runtimeapi.RuntimeService_Version_FullMethodName:       true,
	runtimeapi.RuntimeService_Status_FullMethodName:        true,
	runtimeapi.RuntimeService_RuntimeConfig_FullMethodName: true,
	operator.InfoMethod:          true,
	containerdview.VersionMethod: true,
}

// quiet calls come every few seconds and are logged at a higher level.
var quiet = map[string]bool{
	"Version": true, "Status": true, "RuntimeConfig": true, "ExecSync": true,
	"ListPodSandbox": true, "PodSandboxStatus": true, "ListContainers": true, "ContainerStatus": true,
	"ListImages": true, "ImageStatus": true, "ImageFsInfo": true,
	"ContainerStats": true, "ListContainerStats": true, "PodSandboxStats": true, "ListPodSandboxStats": true,
	"ListMetricDescriptors": true, "ListPodSandboxMetrics": true,
	"Get":                true, // of package containerdview
	"StreamPodSandboxes": true, "StreamContainers": true, "StreamImages": true,
	"StreamContainerStats": true, "StreamPodSandboxStats": true, "StreamPodSandboxMetrics": true,
}

// Interceptors are the options a grpc.Server needs for this service: readiness,
// one log line and count per call, panics turned into errors, error codes.
func (s *Server) Interceptors() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(s.opt.MaxMessage),
	}
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	c := s.begin(ctx, info.FullMethod, req)
	defer func() {
		if p := recover(); p != nil {
			err = inflight.Panicked(c.ctx, p)
		}
		err = c.end(resp, err)
	}()
	if err := s.awaitReady(c.ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(c.ctx, req)
}

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	c := s.begin(ss.Context(), info.FullMethod, nil)
	defer func() {
		if p := recover(); p != nil {
			err = inflight.Panicked(c.ctx, p)
		}
		err = c.end(nil, err)
	}()
	if err := s.awaitReady(c.ctx, info.FullMethod); err != nil {
		return err
	}
	return handler(srv, streamWithContext{ss, c.ctx})
}

type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (s streamWithContext) Context() context.Context { return s.ctx }

// awaitReady lets a call through once recovery is done; it waits for that a
// little, since recovery is short and a client's first error is often its last.
func (s *Server) awaitReady(ctx context.Context, method string) error {
	if early[method] {
		return nil
	}
	select {
	case <-s.ready:
		return nil
	default:
	}
	patience := time.NewTimer(s.opt.ReadyWait)
	defer patience.Stop()
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-patience.C:
		return status.Error(codes.Unavailable, "berth is taking over the running pods; retry in a moment")
	}
}

// call is one RPC as it is logged and counted.
type call struct {
	ctx    context.Context
	s      *Server
	method string
	began  time.Time
}

func (s *Server) begin(ctx context.Context, fullMethod string, req any) call {
	keys := append([]any{"rpc", path.Base(fullMethod)}, identify(req)...)
	logger := klog.LoggerWithValues(klog.FromContext(ctx), keys...)
	return call{ctx: klog.NewContext(ctx, logger), s: s, method: fullMethod, began: time.Now()}
}

// end counts and logs the call and gives the error its code.
func (c call) end(resp any, err error) error {
	err = toStatus(err)
	took := time.Since(c.began)
	code := status.Code(err)
	c.s.calls.add(c.method, code, took)
	c.s.opt.Observe(path.Base(c.method), code.String(), took)
	logger := klog.FromContext(c.ctx)
	if err == nil {
		logger = klog.LoggerWithValues(logger, identify(resp)...)
	}
	switch {
	case code == codes.Unknown, code == codes.Internal, code == codes.DataLoss:
		logger.Error(err, "Call failed", "took", took)
	case err != nil && strings.HasPrefix(c.method, containerdview.Services):
		// cAdvisor asks every minute, for each cgroup of others too.
		logger.V(4).Info("Call refused", "took", took, "code", code)
	case err != nil:
		logger.V(2).Info("Call refused", "took", took, "code", code, "reason", status.Convert(err).Message())
	case took > slowCall:
		logger.Info("Call was slow", "took", took)
	case quiet[path.Base(c.method)]:
		logger.V(4).Info("Call done", "took", took)
	default:
		logger.V(2).Info("Call done", "took", took)
	}
	return err
}

// identify gives the keys that name what a message is about. Nothing else of a
// message is logged: it may hold a password.
func identify(msg any) []any {
	var keys []any
	if m, ok := msg.(interface{ GetPodSandboxId() string }); ok && m.GetPodSandboxId() != "" {
		keys = append(keys, "pod", short(m.GetPodSandboxId()))
	}
	if m, ok := msg.(interface{ GetContainerId() string }); ok && m.GetContainerId() != "" {
		keys = append(keys, "container", short(m.GetContainerId()))
	}
	switch m := msg.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		keys = append(keys, "podName", short(m.GetConfig().GetMetadata().GetName()), "namespace", short(m.GetConfig().GetMetadata().GetNamespace()))
	case *runtimeapi.CreateContainerRequest:
		keys = append(keys, "containerName", short(m.GetConfig().GetMetadata().GetName()))
	case interface{ GetImage() *runtimeapi.ImageSpec }:
		keys = append(keys, "image", short(m.GetImage().GetImage()))
	}
	return keys
}

// short keeps a hostile name from filling the log.
func short(s string) string {
	if len(s) > maxName {
		return s[:maxName] + "…"
	}
	return s
}
