package sandbox

import (
	"io"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
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
	ContainerID string     // the pod's ID for events of the sandbox itself
	Pod         *PodStatus // as it was then; nil when it was never whole
	At          time.Time
}
