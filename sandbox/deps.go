package sandbox

import (
	"context"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/shimapi"
	"berth/sandbox/record"
)

// Images is what the domain needs of an image store.
type Images interface {
	// Resolve finds an image that is in the store by ID, prefix, tag or digest;
	// the error wraps [ErrNotFound] when there is none.
	Resolve(ref string) (Image, error)
	// Hold keeps layers on disk until Release of the same key, whatever happens
	// to the images that brought them. Repeating it with a key replaces. When the store
	// lacks some of them, the others are held all the same, and that is the error.
	Hold(key string, layers []string) error
	Release(key string)
	Mount(ctx context.Context, r RootfsRequest) error
	// Unmount undoes Mount; a target that is not mounted is no error.
	Unmount(target string) error
}

// Image is an image as a container needs it.
type Image struct {
	ID     string // sha256:…, what Image.id of the CRI says
	Digest string // its full name by digest in a registry; "" when it came from an archive
	Config ocispec.ImageConfig
	Layers []string // ChainIDs, lowest first
}

// RootfsRequest asks for layers to be mounted as one tree.
type RootfsRequest struct {
	Layers      []string
	Target      string // an existing directory
	Upper, Work string // are made, with owner and mode of the image's root; both empty: a read-only view
	UIDMap      []shimapi.IDMap
	GIDMap      []shimapi.IDMap
	Label       string `json:",omitempty"` // SELinux label of all files of the tree; "" for those of the layers
}

// Handlers is what the domain needs to know of runtime handlers.
type Handlers interface {
	// Handler is what a name that is not "" means. The error wraps [ErrInvalid] when there
	// is no handler of that name, [ErrNotReady] when its runtime can't be run now.
	Handler(ctx context.Context, name string) (Handler, error)
}

// Network is what the domain needs of the pod network.
type Network interface {
	// Ready is nil, or the reason why no pod can be attached, in words that can
	// stand as the NetworkReady condition's message.
	Ready() error
	// Attach connects a pod; on error nothing is left attached.
	Attach(ctx context.Context, p PodNetwork) (NetworkResult, error)
	// Detach is idempotent and obeys no request's deadline but its own. The error
	// wraps [ErrNotReady] when something that it needs is missing on the node.
	Detach(ctx context.Context, p PodNetwork) error
	// Forgo takes over a Detach that failed with ErrNotReady, so that the pod can go:
	// it is done when that is possible, by a later daemon if need be.
	Forgo(ctx context.Context, p PodNetwork) error
}

// PodNetwork names a pod to the network.
type PodNetwork struct {
	PodID  string
	NetNS  string
	Config *runtimeapi.PodSandboxConfig
	// Foreign: a runtime that may have a network stack of its own uses the namespace.
	Foreign bool
}

// NetworkResult is what the network gave a pod.
type NetworkResult = record.Network
