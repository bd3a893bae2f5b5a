package sandbox

import (
	"context"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Plugins is what the domain needs of the plugins of the node. They are told of each step
// in the life of a pod and container once and in order, see teller. Each method returns
// within a bounded time, whatever a plugin does.
type Plugins interface {
	// Hold has plugins that connect wait for the list of what runs until release is
	// called: what is told meanwhile is either in that list or told to them, and the list
	// has nothing half done. It waits for a plugin that just gets its list.
	Hold() (release func())
	// Pod tells of a step of a pod. The error is a plugin's refusal, with its name.
	Pod(ctx context.Context, n PodNotice) error
	// Container tells of a step of a container. It reports whether a plugin is there to
	// hear it; the error is a plugin's refusal, with its name.
	Container(ctx context.Context, n ContainerNotice) (heard bool, err error)
	// Adjust tells that a container is about to be created, and makes the changes in its
	// spec that plugins ask for. The error is a plugin's refusal, or says which plugin
	// asked for what can't be done.
	Adjust(ctx context.Context, n ContainerNotice, spec *specs.Spec) error
	// Update tells that a container is about to get other limits, and gives those to set.
	Update(ctx context.Context, n ContainerNotice, asked *runtimeapi.LinuxContainerResources) (NewLimits, error)
}

// PodStep is a step in the life of a pod.
type PodStep string

// The steps of a pod, named as NRI names them.
const (
	PodRun        PodStep = "RunPodSandbox"    // made, but no container yet and not listed yet
	PodUpdate     PodStep = "UpdatePodSandbox" // is about to get other resources
	PodPostUpdate PodStep = "PostUpdatePodSandbox"
	PodStop       PodStep = "StopPodSandbox" // all containers have ended; the network is still there
	PodRemove     PodStep = "RemovePodSandbox"
)

// PodNotice is what plugins are told of a pod.
type PodNotice struct {
	Step                PodStep
	Pod                 *PodStatus
	Overhead, Resources *runtimeapi.LinuxContainerResources // that PodUpdate is about to set; nil ones stay
}

// ContainerStep is a step in the life of a container.
type ContainerStep string

// The steps of a container, named as NRI names them. Those without a constant have a
// method of [Plugins].
const (
	ContainerPostCreate ContainerStep = "PostCreateContainer"
	ContainerStart      ContainerStep = "StartContainer" // is about to be started
	ContainerPostStart  ContainerStep = "PostStartContainer"
	ContainerPostUpdate ContainerStep = "PostUpdateContainer"
	ContainerStop       ContainerStep = "StopContainer" // has ended
	ContainerRemove     ContainerStep = "RemoveContainer"
)

// ContainerNotice is what plugins are told of a container.
type ContainerNotice struct {
	Step      ContainerStep
	Pod       *PodStatus
	Container *ContainerStatus
}

// NewLimits are the limits that an update sets; what is zero or nil keeps its value.
type NewLimits struct {
	*runtimeapi.LinuxContainerResources
	// More are limits that the CRI has no field for, such as that of processes.
	More *specs.LinuxResources
}

// noPlugins is a node without plugins.
type noPlugins struct{}

// Hold implements [Plugins].
func (noPlugins) Hold() func() { return func() {} }

// Pod implements [Plugins].
func (noPlugins) Pod(context.Context, PodNotice) error { return nil }

// Container implements [Plugins].
func (noPlugins) Container(context.Context, ContainerNotice) (bool, error) { return false, nil }

// Adjust implements [Plugins].
func (noPlugins) Adjust(context.Context, ContainerNotice, *specs.Spec) error { return nil }

// Update implements [Plugins].
func (noPlugins) Update(_ context.Context, _ ContainerNotice, asked *runtimeapi.LinuxContainerResources) (NewLimits, error) {
	return NewLimits{LinuxContainerResources: asked}, nil
}
