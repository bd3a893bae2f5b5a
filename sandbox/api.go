package sandbox

import (
	"errors"
	"io"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The errors a verb may wrap; package cri maps each to one gRPC code.
var (
	// ErrNotFound: no pod sandbox or container has that ID or prefix.
	ErrNotFound = errors.New("not found")
	// ErrInvalid: the request can never succeed as it is; the text says what to change.
	ErrInvalid = errors.New("invalid")
	// ErrState: the verb does not apply in the present state.
	ErrState = errors.New("wrong state")
	// ErrNotReady: the node lacks something for now (network not configured, shim starting).
	ErrNotReady = errors.New("not ready")
	// ErrTimeout: the process in the container did not end in the time given; it was killed.
	ErrTimeout = errors.New("timed out")
	// ErrUnsupported: this host can't do what was asked (no AppArmor, no user namespaces).
	ErrUnsupported = errors.New("not supported on this host")
)

// PodStatus is one pod sandbox as it was at one moment. It is immutable.
type PodStatus struct {
	ID        string
	Config    *runtimeapi.PodSandboxConfig
	Handler   string
	State     runtimeapi.PodSandboxState
	CreatedAt time.Time
	IPs       []string // of the pod's own network, primary first; empty on the host network
	PID       int      // of the pause process, 0 when it ended
	NetNS     string   // path that pins the network namespace; "" on the host network
	ShimID    string
}

// ContainerStatus is one container as it was at one moment. It is immutable.
type ContainerStatus struct {
	ID         string
	PodID      string
	Config     *runtimeapi.ContainerConfig
	State      runtimeapi.ContainerState
	CreatedAt  time.Time
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int32
	Reason     string // Completed, Error, OOMKilled, StartError, ContainerStatusUnknown
	Message    string
	ImageID    string
	ImageRef   string // name and digest in a registry, ImageID when there is none
	LogPath    string // absolute; "" when the container has no log
	Mounts     []*runtimeapi.Mount
	Resources  *runtimeapi.ContainerResources
	User       *runtimeapi.ContainerUser
	StopSignal runtimeapi.Signal
	PID        int               // 0 unless created or running
	Cgroups    map[string]string // controller → absolute path, "" on v2
	Spec       []byte            // the runtime-spec it was created from, JSON
	Unenforced []string          // limits that this node can't enforce, in words
	// UpdateAnnotations came with the last update of the resources that had some.
	UpdateAnnotations map[string]string
}

// ExecResult is what a command in a container left.
type ExecResult struct {
	Stdout, Stderr []byte
	ExitCode       int32
}

// Size is a terminal's size in characters.
type Size struct{ Width, Height uint16 }

// Streams are the ends a client holds of an exec or attach; nil ones are not wanted.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.WriteCloser
	TTY            bool
	Resize         <-chan Size
}

// Event is a change of a container or pod sandbox, told after it is committed.
type Event struct {
	Type        runtimeapi.ContainerEventType
	PodID       string
	ContainerID string // the pod's ID for events of the sandbox itself
	At          time.Time
}

// Manager's methods, for those who build on it:
//
//	RunPod(ctx, *runtimeapi.PodSandboxConfig, handler string) (id string, err error)
//	StopPod(ctx, id string) error                  // unknown: nil
//	RemovePod(ctx, id string) error                // unknown: nil
//	Pod(id string) (*PodStatus, error)             // ID or unambiguous prefix
//	Pods() []*PodStatus                            // newest first
//	UpdatePodResources(ctx, id string, overhead, resources *runtimeapi.LinuxContainerResources) error
//	PortForward(ctx, podID string, port int32, stream io.ReadWriteCloser) error
//	CreateContainer(ctx, podID string, *runtimeapi.ContainerConfig, *runtimeapi.PodSandboxConfig) (id string, err error)
//	StartContainer(ctx, id string) error
//	StopContainer(ctx, id string, grace time.Duration) error   // unknown: nil
//	RemoveContainer(ctx, id string) error                       // unknown: nil
//	UpdateContainer(ctx, id string, *runtimeapi.LinuxContainerResources, annotations map[string]string) error
//	ReopenLog(ctx, id string) error
//	Container(id string) (*ContainerStatus, error) // ID or unambiguous prefix
//	Containers() []*ContainerStatus                // newest first
//	ExecSync(ctx, id string, cmd []string, timeout time.Duration) (ExecResult, error)  // ErrTimeout; result holds what was printed
//	Exec(ctx, id string, cmd []string, Streams) (code int, err error)
//	Attach(ctx, id string, Streams) error
//	ContainerStats(ctx, id string) (*runtimeapi.ContainerStats, error)
//	ListContainerStats(ctx, ids []string) []*runtimeapi.ContainerStats
//	PodStats(ctx, id string) (*runtimeapi.PodSandboxStats, error)
//	ListPodStats(ctx, ids []string) []*runtimeapi.PodSandboxStats
//	Measures(id string) (Measures, error)          // of a running container; PodMeasures of a pod
//	Subscribe(ctx) <-chan Event                    // closed when ctx ends or the reader is too slow
//	Ready() error                                  // nil, or why no container can run
