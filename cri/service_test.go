package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/image"
	"berth/sandbox"
	"berth/sandbox/inflight"
)

// emptyRequest is what each method answers to one; those not named answer OK.
var emptyRequest = map[string]codes.Code{
	"RunPodSandbox": codes.InvalidArgument, "StopPodSandbox": codes.InvalidArgument, "RemovePodSandbox": codes.InvalidArgument,
	"PodSandboxStatus": codes.InvalidArgument, "CreateContainer": codes.InvalidArgument, "StartContainer": codes.InvalidArgument,
	"StopContainer": codes.InvalidArgument, "RemoveContainer": codes.InvalidArgument, "ContainerStatus": codes.InvalidArgument,
	"UpdateContainerResources": codes.InvalidArgument, "ReopenContainerLog": codes.InvalidArgument, "ExecSync": codes.InvalidArgument,
	"Exec": codes.InvalidArgument, "Attach": codes.InvalidArgument, "PortForward": codes.InvalidArgument,
	"ContainerStats": codes.InvalidArgument, "PodSandboxStats": codes.InvalidArgument, "UpdatePodSandboxResources": codes.InvalidArgument,
	"CheckpointContainer": codes.Unimplemented, "CheckpointPod": codes.Unimplemented, "RestorePod": codes.Unimplemented,
	"ImageStatus": codes.InvalidArgument, "PullImage": codes.InvalidArgument, "RemoveImage": codes.InvalidArgument,
	"GetContainerEvents": codes.ResourceExhausted, // the fake's channel is closed
}

// eachMethod calls every method of both services with an empty request.
func eachMethod(t *testing.T, conn *grpc.ClientConn, check func(t *testing.T, name string, err error)) {
	for _, service := range []protoreflect.FullName{"runtime.v1.RuntimeService", "runtime.v1.ImageService"} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(service)
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			t.Run(string(m.Name()), func(t *testing.T) {
				check(t, string(m.Name()), callEmpty(t, conn, fmt.Sprintf("/%s/%s", service, m.Name()), m))
			})
		}
	}
}

func callEmpty(t *testing.T, conn *grpc.ClientConn, path string, m protoreflect.MethodDescriptor) error {
	in, out := newMessage(t, m.Input()), newMessage(t, m.Output())
	if !m.IsStreamingServer() {
		return conn.Invoke(t.Context(), path, in, out)
	}
	ss, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, path)
	if err != nil {
		return err
	}
	if err := errors.Join(ss.SendMsg(in), ss.CloseSend()); err != nil {
		return err
	}
	for err == nil {
		err = ss.RecvMsg(out)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func newMessage(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return mt.New().Interface()
}

func TestEveryMethodAnswersAnEmptyRequest(t *testing.T) {
	f := newFake()
	close(f.events)
	_, conn := serve(t, options(f))
	eachMethod(t, conn, func(t *testing.T, name string, err error) {
		if got := status.Code(err); got != emptyRequest[name] {
			t.Errorf("code %v, want %v: %v", got, emptyRequest[name], err)
		}
		words := "method " + name + " not implemented"
		if left := strings.Contains(status.Convert(err).Message(), words); left != (emptyRequest[name] == codes.Unimplemented) {
			t.Errorf("%v: in the words of generated code: %v", err, left)
		}
	})
}

func TestBeforeRecoveryOnlyAFewAnswer(t *testing.T) {
	f := newFake()
	s, err := NewServer(options(f))
	if err != nil {
		t.Fatal(err)
	}
	conn := dial(t, s)
	eachMethod(t, conn, func(t *testing.T, name string, err error) {
		want := codes.Unavailable
		if name == "Version" || name == "Status" || name == "RuntimeConfig" {
			want = codes.OK
		}
		if got := status.Code(err); got != want {
			t.Errorf("code %v, want %v", got, want)
		}
	})
	resp, err := runtimeapi.NewRuntimeServiceClient(conn).Status(t.Context(), &runtimeapi.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if c := resp.GetStatus().GetConditions()[0]; c.GetStatus() || c.GetReason() != "Recovering" {
		t.Errorf("condition before recovery: %v", c)
	}
}

func TestACallWaitsForRecovery(t *testing.T) {
	opt := options(newFake())
	opt.ReadyWait = time.Minute
	s, err := NewServer(opt)
	if err != nil {
		t.Fatal(err)
	}
	conn := dial(t, s)
	done := make(chan error, 1)
	go func() {
		_, err := runtimeapi.NewRuntimeServiceClient(conn).ListPodSandbox(context.Background(), &runtimeapi.ListPodSandboxRequest{})
		done <- err
	}()
	s.SetReady()
	s.SetReady()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAPanicIsAnErrorAndTheServerLives(t *testing.T) {
	f := newFake()
	f.hook = func(context.Context, string) error { panic("boom") }
	s, conn := serve(t, options(f))
	client := runtimeapi.NewRuntimeServiceClient(conn)
	// Detached, on a goroutine of the in-flight map.
	if _, err := client.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: "x"}); status.Code(err) != codes.Internal {
		t.Errorf("detached panic: %v", err)
	}
	f.pods = []*sandbox.PodStatus{nil} // makes the list itself panic
	if _, err := client.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{}); status.Code(err) != codes.Internal {
		t.Errorf("panic in a handler: %v", err)
	}
	if _, err := client.Version(t.Context(), &runtimeapi.VersionRequest{}); err != nil {
		t.Error(err)
	}
	if got := s.Counters()[runtimeapi.RuntimeService_ListPodSandbox_FullMethodName]; got.Count != 1 || got.Errors["Internal"] != 1 {
		t.Errorf("counters: %+v", got)
	}
}

func TestErrorTable(t *testing.T) {
	for _, c := range []struct {
		err  error
		code codes.Code
		text string
	}{
		{nil, codes.OK, ""},
		{fmt.Errorf("container x: %w", sandbox.ErrNotFound), codes.NotFound, "container x: not found"},
		{fmt.Errorf("x: %w", sandbox.ErrExists), codes.AlreadyExists, ""},
		{fmt.Errorf("x %w", inflight.ErrBusy), codes.Aborted, ""},
		{fmt.Errorf("%w; retry", inflight.ErrStopping), codes.Unavailable, ""},
		{inflight.ErrPanicked, codes.Internal, ""},
		{fmt.Errorf("x: %w", sandbox.ErrState), codes.FailedPrecondition, ""},
		{fmt.Errorf("x: %w", sandbox.ErrInvalid), codes.InvalidArgument, ""},
		{fmt.Errorf("x: %w", sandbox.ErrNotReady), codes.Unavailable, ""},
		{fmt.Errorf("x: %w", sandbox.ErrTimeout), codes.DeadlineExceeded, ""},
		{fmt.Errorf("x: %w", sandbox.ErrUnsupported), codes.FailedPrecondition, ""},
		{fmt.Errorf("open /x: %w", fs.ErrNotExist), codes.Unknown, "open /x: file does not exist"},
		{errors.New("y"), codes.Unknown, "y"},
		{context.Canceled, codes.Canceled, ""},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), codes.DeadlineExceeded, ""},
		{invalid("z"), codes.InvalidArgument, "z"},
		{fmt.Errorf("pull x: %w", image.ErrRegistryUnavailable), codes.Unknown, "RegistryUnavailable: pull x: " + image.ErrRegistryUnavailable.Error()},
		{fmt.Errorf("pull x: %w", image.ErrSignature), codes.Unknown, "SignatureValidationFailed: pull x: " + image.ErrSignature.Error()},
		{errors.Join(sandbox.ErrImageVolume, sandbox.ErrInvalid), codes.InvalidArgument, "ImageVolumeMountFailed: image volume\ninvalid"},
		{fmt.Errorf("x: %w", image.ErrNotFound), codes.NotFound, ""},
		{fmt.Errorf("x: %w", image.ErrUnauthorized), codes.PermissionDenied, ""},
		{fmt.Errorf("x: %w", image.ErrInvalidReference), codes.InvalidArgument, ""},
		{fmt.Errorf("x: %w", image.ErrNoSpace), codes.ResourceExhausted, ""},
		{fmt.Errorf("mkdir /x: %w", &fs.PathError{Op: "mkdir", Path: "/x", Err: unix.ENOSPC}), codes.ResourceExhausted, ""},
		{fmt.Errorf("x: %w", image.ErrCorrupt), codes.DataLoss, ""},
	} {
		got := status.Convert(toStatus(c.err))
		if got.Code() != c.code {
			t.Errorf("%v: code %v, want %v", c.err, got.Code(), c.code)
		}
		if c.text != "" && got.Message() != c.text {
			t.Errorf("%v: text %q, want %q", c.err, got.Message(), c.text)
		}
	}
	long := status.Convert(toStatus(errors.New(strings.Repeat("ü\xff", 1<<20)))).Message()
	if len(long) > maxMessage+8 {
		t.Errorf("a text of %d bytes is sent", len(long))
	}
}

func TestStatusTellsConditionsAndFeatures(t *testing.T) {
	f := newFake()
	opt := options(f)
	opt.NetworkReady = func() error { return errors.New("no configuration in /etc/cni/net.d") }
	opt.Info = func() map[string]any { return map[string]any{"config": map[string]string{"stateDir": "/run/berth"}} }
	opt.Features = &runtimeapi.RuntimeFeatures{MountOptions: true, UserNamespacesHostNetwork: true}
	opt.Handlers = func() []*runtimeapi.RuntimeHandler {
		return []*runtimeapi.RuntimeHandler{{Features: &runtimeapi.RuntimeHandlerFeatures{UserNamespaces: true}}, {Name: "gvisor"}}
	}
	_, conn := serve(t, opt)
	resp, err := runtimeapi.NewRuntimeServiceClient(conn).Status(t.Context(), &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	cond := resp.GetStatus().GetConditions()
	if !cond[0].GetStatus() || cond[0].GetType() != "RuntimeReady" {
		t.Errorf("runtime condition: %v", cond[0])
	}
	if cond[1].GetStatus() || cond[1].GetType() != "NetworkReady" || cond[1].GetMessage() != "no configuration in /etc/cni/net.d" {
		t.Errorf("network condition: %v", cond[1])
	}
	if h := resp.GetRuntimeHandlers(); len(h) != 2 || h[0].GetName() != "" || !h[0].GetFeatures().GetUserNamespaces() || h[1].GetFeatures().GetUserNamespaces() {
		t.Errorf("handlers: %v", h)
	}
	if ft := resp.GetFeatures(); !proto.Equal(ft, opt.Features) {
		t.Errorf("features: %v", ft)
	}
	if resp.GetInfo()["config"] != `{"stateDir":"/run/berth"}` {
		t.Errorf("info: %v", resp.GetInfo())
	}
	if got := resp.GetInfo()["events"]; got != `{"subscribers":0,"published":3,"cut":1,"longestQueue":0}` {
		t.Errorf("events: %s", got)
	}
}

// The kubelet shows the node's runtime version as Unknown unless it can parse it.
func TestRuntimeVersionIsSemantic(t *testing.T) {
	for version, want := range map[string]string{
		"e6e2f7b": "0.0.0+e6e2f7b", "e6e2f7b-dirty": "0.0.0+e6e2f7b-dirty", "dev": "0.0.0+dev", "1.2": "0.0.0+1.2",
		"v1.2.3": "1.2.3", "v1.2.3-5-gabcdef-dirty": "1.2.3-5-gabcdef-dirty", "1.2.3-rc.1+x.y": "1.2.3-rc.1+x.y",
		"my build/é_1": "0.0.0+my.build.1", "": "0.0.0", "..": "0.0.0",
	} {
		if got := semanticVersion(version); got != want || !semantic.MatchString(got) {
			t.Errorf("%q: got %q, want %q", version, got, want)
		}
	}
}
