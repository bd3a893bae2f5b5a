package cri

import (
	"context"
	"io"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/cri/containerdview"
	"berth/image"
	"berth/sandbox"
)

// Domain is the pods and containers of the node. *sandbox.Runtime is one.
type Domain interface {
	Pods
	Containers
	Running
	States
	Sessions
	Stats
	containerdview.Domain
}

// Pods changes pod sandboxes.
type Pods interface {
	RunPod(ctx context.Context, cfg *runtimeapi.PodSandboxConfig, handler string) (string, error)
	StopPod(ctx context.Context, id string) error
	RemovePod(ctx context.Context, id string) error
	UpdatePodResources(ctx context.Context, id string, overhead, resources *runtimeapi.LinuxContainerResources) error
}

// Containers makes and ends containers.
type Containers interface {
	CreateContainer(ctx context.Context, podID string, cfg *runtimeapi.ContainerConfig, pod *runtimeapi.PodSandboxConfig) (string, error)
	StartContainer(ctx context.Context, id string) error
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	RemoveContainer(ctx context.Context, id string) error
}

// Running changes containers that run, and tells of changes and of the node.
type Running interface {
	UpdateContainer(ctx context.Context, id string, res *runtimeapi.LinuxContainerResources, annotations map[string]string) error
	ReopenLog(ctx context.Context, id string) error
	Subscribe(ctx context.Context) <-chan sandbox.Event
	EventCounts() sandbox.EventCounts
	Ready() error
}

// States are the snapshots that lists and statuses are served from.
type States interface {
	Pod(id string) (*sandbox.PodStatus, error)
	Pods() []*sandbox.PodStatus
	Container(id string) (*sandbox.ContainerStatus, error)
	Containers() []*sandbox.ContainerStatus
	ContainersOf(podID string) []*sandbox.ContainerStatus
}

// Sessions connect clients to processes and ports in a pod.
type Sessions interface {
	ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (sandbox.ExecResult, error)
	Exec(ctx context.Context, id string, cmd []string, s sandbox.Streams) (int, error)
	Attach(ctx context.Context, id string, s sandbox.Streams) error
	PortForward(ctx context.Context, podID string, port int32, stream io.ReadWriteCloser) error
}

// Stats measures.
type Stats interface {
	ContainerStats(ctx context.Context, id string) (*runtimeapi.ContainerStats, error)
	ListContainerStats(ctx context.Context, ids []string) []*runtimeapi.ContainerStats
	PodStats(ctx context.Context, id string) (*runtimeapi.PodSandboxStats, error)
	ListPodStats(ctx context.Context, ids []string) []*runtimeapi.PodSandboxStats
	MeasurePods(ctx context.Context, ids []string) []*sandbox.PodMeasures
	Counted() sandbox.Counted
}

// Images is the image store. *image.Store is one.
type Images interface {
	Pull(ctx context.Context, r image.PullRequest) (*image.Image, error)
	Get(ref string) (*image.Image, error)
	List() []*image.Image
	RawConfig(id string) ([]byte, error)
	Remove(ctx context.Context, ref string) error
	Usage(ctx context.Context) (image.Usage, error)
}

// Archive moves images in and out of the store and checks it, for the operator.
// *image.Store is one.
type Archive interface {
	Load(ctx context.Context, r io.Reader, o image.LoadOptions) ([]*image.Image, error)
	Export(ctx context.Context, refs []string, w io.Writer) error
	Check(ctx context.Context, repair bool) (image.Report, error)
}
