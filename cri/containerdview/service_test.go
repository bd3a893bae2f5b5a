package containerdview

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
)

// domain is a fixed set.
type domain map[string]*sandbox.Subject

func (d domain) Subject(id string) (*sandbox.Subject, error) {
	if s := d[id]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("%s: %w", id, sandbox.ErrNotFound)
}

var (
	podID = strings.Repeat("a", 64)
	ctrID = strings.Repeat("b", 64)
	newID = strings.Repeat("c", 64)
)

func subjects() domain {
	return domain{
		podID: {
			ID: podID, PodID: podID, PID: 10, CreatedAt: time.Unix(100, 0), CgroupsPath: "/kubepods/pod1/" + podID, State: runtimeapi.ContainerState_CONTAINER_RUNNING,
			// A tenant has written the second.
			Labels: map[string]string{"io.kubernetes.pod.name": "p", kindLabel: kindContainer},
		},
		ctrID: {
			ID: ctrID, PodID: podID, CreatedAt: time.Unix(101, 0), State: runtimeapi.ContainerState_CONTAINER_EXITED, ExitCode: 3, FinishedAt: time.Unix(102, 0),
			Labels: map[string]string{"io.kubernetes.container.name": "c", kindLabel: kindSandbox}, Image: &runtimeapi.ImageSpec{UserSpecifiedImage: "example.org/i"},
		},
		newID: {ID: newID, PodID: podID},
	}
}

// dial serves the subjects and gives a connection, and calls in containerd's namespace.
func dial(t *testing.T) (*grpc.ClientConn, context.Context) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	codeOf := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		out, err := h(ctx, req)
		if errors.Is(err, sandbox.ErrNotFound) { // as package cri does
			err = status.Error(codes.NotFound, err.Error())
		}
		return out, err
	}
	g := grpc.NewServer(grpc.UnaryInterceptor(codeOf))
	Register(g, subjects(), func(s *sandbox.Subject) string { return s.Image.GetUserSpecifiedImage() }, "v1")
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, metadata.AppendToOutgoingContext(t.Context(), namespaceHeader, namespace)
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestContainers(t *testing.T) {
	conn, ctx := dial(t)
	client := containersapi.NewContainersClient(conn)
	for id, want := range map[string][3]string{
		podID: {"io.kubernetes.pod.name", "sandbox", SandboxImage},
		ctrID: {"io.kubernetes.container.name", "container", "example.org/i"},
	} {
		r, err := client.Get(ctx, &containersapi.GetContainerRequest{ID: id})
		if err != nil {
			t.Fatal(err)
		}
		c := r.GetContainer()
		if c.GetID() != id || c.GetLabels()[want[0]] == "" || c.GetLabels()[kindLabel] != want[1] || c.GetImage() != want[2] || c.GetCreatedAt().AsTime().Year() != 1970 {
			t.Errorf("it is %v", c)
		}
		var spec specs.Spec
		if err := json.Unmarshal(c.GetSpec().GetValue(), &spec); err != nil {
			t.Fatal(err)
		}
		if spec.Process == nil || len(spec.Process.Env) > 0 || c.GetSpec().GetTypeUrl() != specType {
			t.Errorf("spec %s", c.GetSpec().GetValue())
		}
		if id == podID && spec.Linux.CgroupsPath != "/kubepods/pod1/"+podID {
			t.Errorf("cgroup %s", spec.Linux.CgroupsPath)
		}
	}
	_, err := client.Get(ctx, &containersapi.GetContainerRequest{ID: ctrID[:12]})
	wantCode(t, "a part of an ID", err, codes.NotFound)
	_, err = client.Get(t.Context(), &containersapi.GetContainerRequest{ID: ctrID})
	wantCode(t, "no namespace", err, codes.NotFound)
	_, err = client.Get(metadata.AppendToOutgoingContext(t.Context(), namespaceHeader, "moby"), &containersapi.GetContainerRequest{ID: ctrID})
	wantCode(t, "another namespace", err, codes.NotFound)
}

func TestTasks(t *testing.T) {
	conn, ctx := dial(t)
	client := tasksapi.NewTasksClient(conn)
	r, err := client.Get(ctx, &tasksapi.GetRequest{ContainerID: podID})
	if p := r.GetProcess(); err != nil || p.GetPid() != 10 || p.GetStatus() != tasktypes.Status_RUNNING || p.GetExitedAt() != nil {
		t.Errorf("task of the sandbox: %v, %v", p, err)
	}
	r, err = client.Get(ctx, &tasksapi.GetRequest{ContainerID: ctrID})
	if p := r.GetProcess(); err != nil || p.GetStatus() != tasktypes.Status_STOPPED || p.GetPid() != 0 || p.GetExitStatus() != 3 || p.GetExitedAt().AsTime().Unix() != 102 {
		t.Errorf("task of the container: %v, %v", p, err)
	}
	_, err = client.Get(ctx, &tasksapi.GetRequest{ContainerID: newID})
	wantCode(t, "no process yet", err, codes.NotFound)
	_, err = client.Get(ctx, &tasksapi.GetRequest{ContainerID: ctrID, ExecID: "x"})
	wantCode(t, "a session", err, codes.NotFound)
	v, err := versionapi.NewVersionClient(conn).Version(t.Context(), &emptypb.Empty{})
	if err != nil || v.GetVersion() != "v1" {
		t.Errorf("version %v, %v", v, err)
	}
}

// All else is refused, whatever containerd's API gets.
func TestNothingElseIsServed(t *testing.T) {
	conn, ctx := dial(t)
	served := map[string]bool{"/containerd.services.containers.v1.Containers/Get": true, "/containerd.services.tasks.v1.Tasks/Get": true, VersionMethod: true}
	seen := 0
	for _, service := range []grpc.ServiceDesc{containersapi.Containers_ServiceDesc, tasksapi.Tasks_ServiceDesc, versionapi.Version_ServiceDesc} {
		for _, m := range service.Methods {
			name := "/" + service.ServiceName + "/" + m.MethodName
			if served[name] {
				seen++
				continue
			}
			wantCode(t, name, conn.Invoke(ctx, name, &emptypb.Empty{}, &emptypb.Empty{}), codes.Unimplemented)
		}
		for _, s := range service.Streams {
			stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/"+service.ServiceName+"/"+s.StreamName)
			if err == nil {
				err = errors.Join(stream.SendMsg(&emptypb.Empty{}), stream.CloseSend())
			}
			if err == nil {
				err = stream.RecvMsg(&emptypb.Empty{})
			}
			wantCode(t, s.StreamName, err, codes.Unimplemented)
		}
	}
	if seen != len(served) {
		t.Errorf("%d of the calls served are of the API", seen)
	}
}
