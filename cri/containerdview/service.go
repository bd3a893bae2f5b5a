package containerdview

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
)

const (
	// SandboxImage is shown as the image of pod sandboxes.
	SandboxImage = "berth/pause"
	// VersionMethod is the call by which cAdvisor decides, once, whether containerd is there.
	VersionMethod = Services + "version.v1.Version/Version"
	// Services is how the full names of all calls begin.
	Services = "/containerd.services."

	// namespace is where containerd keeps what the CRI made.
	namespace = "k8s.io"
	// namespaceHeader names the namespace of a call (containerd, package namespaces).
	namespaceHeader = "containerd-namespace"
	// specType is the type of a runtime-spec in containerd's typeurl, which is JSON.
	specType = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

	kindLabel     = "io.cri-containerd.kind"
	kindSandbox   = "sandbox"
	kindContainer = "container"
)

// Domain finds pods and containers. *sandbox.Runtime is one.
type Domain interface {
	// Subject finds a pod sandbox or a container by its full ID, half-made ones too. It
	// must not block. The error wraps [sandbox.ErrNotFound].
	Subject(id string) (*sandbox.Subject, error)
}

// Register puts the services on g. image names the image of a container as a person would.
func Register(g *grpc.Server, domain Domain, image func(*sandbox.Subject) string, version string) {
	containersapi.RegisterContainersServer(g, &containers{domain: domain, image: image})
	tasksapi.RegisterTasksServer(g, &tasks{domain: domain})
	versionapi.RegisterVersionServer(g, &versions{version: version})
}

// find looks an ID up for a call.
func find(ctx context.Context, domain Domain, id string) (*sandbox.Subject, error) {
	if named := metadata.ValueFromIncomingContext(ctx, namespaceHeader); len(named) != 1 || named[0] != namespace {
		return nil, fmt.Errorf("container %.64q: there are none but in the namespace %s: %w", id, namespace, sandbox.ErrNotFound)
	}
	return domain.Subject(id)
}

// containers answers Get; the rest is Unimplemented.
type containers struct {
	containersapi.UnimplementedContainersServer
	domain Domain
	image  func(*sandbox.Subject) string
}

// Get implements the call of containerd.services.containers.v1.
func (c *containers) Get(ctx context.Context, r *containersapi.GetContainerRequest) (*containersapi.GetContainerResponse, error) {
	s, err := find(ctx, c.domain, r.GetID())
	if err != nil {
		return nil, err
	}
	spec, err := specOf(s)
	if err != nil {
		return nil, err
	}
	out := &containersapi.Container{
		ID: s.ID, Labels: labels(s), Image: SandboxImage, Spec: spec,
		Runtime:   &containersapi.Container_Runtime{Name: "berth"},
		CreatedAt: timestamppb.New(s.CreatedAt), UpdatedAt: timestamppb.New(s.CreatedAt),
	}
	if !s.IsSandbox() {
		out.Image, out.Sandbox = c.image(s), s.PodID
	}
	return &containersapi.GetContainerResponse{Container: out}, nil
}

// labels are those of the configuration, and the kind.
func labels(s *sandbox.Subject) map[string]string {
	out := map[string]string{}
	maps.Copy(out, s.Labels)
	out[kindLabel] = kindContainer
	if s.IsSandbox() {
		out[kindLabel] = kindSandbox
	}
	return out
}

// specOf is what is shown of the runtime-spec, see doc.go. A process is there, if an empty
// one, because cAdvisor looks into it without asking.
func specOf(s *sandbox.Subject) (*anypb.Any, error) {
	b, err := json.Marshal(specs.Spec{
		Version: specs.Version, Process: &specs.Process{Cwd: "/"},
		Linux: &specs.Linux{CgroupsPath: s.CgroupsPath},
	})
	if err != nil {
		return nil, fmt.Errorf("encode the spec: %w", err)
	}
	return &anypb.Any{TypeUrl: specType, Value: b}, nil
}

// tasks answers Get; the rest is Unimplemented.
type tasks struct {
	tasksapi.UnimplementedTasksServer
	domain Domain
}

// Get implements the call of containerd.services.tasks.v1.
func (t *tasks) Get(ctx context.Context, r *tasksapi.GetRequest) (*tasksapi.GetResponse, error) {
	s, err := find(ctx, t.domain, r.GetContainerID())
	if err != nil {
		return nil, err
	}
	if r.GetExecID() != "" && r.GetExecID() != s.ID {
		return nil, status.Errorf(codes.NotFound, "process %.64q of container %s: sessions are not shown", r.GetExecID(), s.ID)
	}
	ended := s.State == runtimeapi.ContainerState_CONTAINER_EXITED
	if s.PID <= 0 && !ended {
		return nil, status.Errorf(codes.NotFound, "container %s has no process yet", s.ID)
	}
	p := &tasktypes.Process{ContainerID: s.ID, ID: s.ID, Pid: uint32(max(s.PID, 0)), Status: taskStatus[s.State]}
	if ended {
		p.ExitStatus = uint32(s.ExitCode)
		if !s.FinishedAt.IsZero() {
			p.ExitedAt = timestamppb.New(s.FinishedAt)
		}
	}
	return &tasksapi.GetResponse{Process: p}, nil
}

// taskStatus are containerd's words for states; what is missing is UNKNOWN.
var taskStatus = map[runtimeapi.ContainerState]tasktypes.Status{
	runtimeapi.ContainerState_CONTAINER_CREATED: tasktypes.Status_CREATED,
	runtimeapi.ContainerState_CONTAINER_RUNNING: tasktypes.Status_RUNNING,
	runtimeapi.ContainerState_CONTAINER_EXITED:  tasktypes.Status_STOPPED,
}

// versions tells berth's version.
type versions struct {
	versionapi.UnimplementedVersionServer
	version string
}

// Version implements the call of containerd.services.version.v1.
func (v *versions) Version(context.Context, *emptypb.Empty) (*versionapi.VersionResponse, error) {
	return &versionapi.VersionResponse{Version: v.version, Revision: "berth"}, nil
}
