package shim

import (
	"context"
	"encoding/json"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/shimapi"
)

// Foreign starts shims of containerd for pods whose runtime is not the built-in one, and
// finds them again. Package shimv2 implements it; a shim without it refuses such pods.
type Foreign interface {
	// Start runs the shim's program for a pod, whose bundle has its config.json. After an
	// error nothing runs.
	Start(ctx context.Context, b shimapi.Bundle) (ForeignShim, error)
	// Connect finds the shim that Start has started for a pod, of this process or of the
	// one that it replaces.
	Connect(ctx context.Context, b shimapi.Bundle) (ForeignShim, error)
	// Reclaim ends a container that no living shim holds, and tells how it ended. An error that
	// wraps [context.DeadlineExceeded] or a shortage of the host says that it may work later.
	Reclaim(ctx context.Context, b shimapi.Bundle) (shimapi.ExitStatus, error)
	// ReclaimShim kills the shim of a pod that nobody can talk to.
	ReclaimShim(ctx context.Context, b shimapi.Bundle) error
	// Close ends what Foreign itself serves. The shims run on.
	Close() error
}

// ForeignShim is a connection to the shim of a pod.
type ForeignShim interface {
	// PID is the shim's process; 0 when it does not tell.
	PID() int
	// Create makes a container up to its start and returns its first process.
	Create(ctx context.Context, r TaskRequest) (Task, int, error)
	// Task is a container that was created before.
	Task(id string) Task
	// Gone is closed when the shim has ended.
	Gone() <-chan struct{}
	// End tells the shim to exit and kills it when it does not.
	End(ctx context.Context) error
}

// TaskRequest makes a container of a bundle. The streams are the paths of fifos; "" is none.
type TaskRequest struct {
	Bundle                shimapi.Bundle
	Terminal              bool
	Stdin, Stdout, Stderr string
}

// TaskProcess is the first process of a container, or one of an exec. What has ended gives
// [os.ErrProcessDone].
type TaskProcess interface {
	// Start lets a created process run and returns its PID.
	Start(ctx context.Context) (int, error)
	// Wait returns how the process ended. Its error tells that the shim is gone.
	Wait(ctx context.Context) (shimapi.ExitStatus, error)
	// Kill sends a signal; all: to every process of the container.
	Kill(ctx context.Context, signal int, all bool) error
	// Delete makes the shim forget a process that has ended.
	Delete(ctx context.Context) error
	TaskStreams
}

// TaskStreams are the streams of a process.
type TaskStreams interface {
	// Resize sets the size of its terminal.
	Resize(ctx context.Context, width, height uint16) error
	// CloseInput ends its stdin.
	CloseInput(ctx context.Context) error
}

// Task is a container of a foreign shim.
type Task interface {
	TaskProcess
	// Exec makes a process in the container, to be started. spec is a process of the
	// runtime-spec.
	Exec(ctx context.Context, id string, spec json.RawMessage, r TaskRequest) (TaskProcess, error)
	Update(ctx context.Context, limits *specs.LinuxResources) error
	Usage(ctx context.Context) (shimapi.Usage, error)
	// Started reports whether the container was started and has not ended.
	Started(ctx context.Context) (bool, error)
}
