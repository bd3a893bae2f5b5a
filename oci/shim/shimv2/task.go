package shimv2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"berth/oci/shim"
	"berth/oci/shimapi"
)

const (
	// specType is what containerd calls types of the runtime-spec, which are JSON.
	specType = "types.containerd.io/opencontainers/runtime-spec/1/"
	// endPatience is how long a shim may take to exit when it was told to.
	endPatience = 3 * time.Second
)

// connection is the shim of a pod. The messages of versions 2 and 3 of the task API are
// the same, only the service's name is another.
type connection struct {
	bundle  shimapi.Bundle
	where   address
	client  *ttrpc.Client
	service string
	gone    chan struct{}
	log     *shimLog
}

func (c *connection) call(ctx context.Context, method string, request, response proto.Message) error {
	err := c.client.Call(ctx, c.service, method, request, response)
	if err == nil {
		return nil
	}
	select {
	case <-c.gone:
		return fmt.Errorf("the shim is gone: %w", err)
	default:
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	if s.Code() == codes.NotFound || strings.Contains(s.Message(), "process already finished") {
		return fmt.Errorf("%s: %w", s.Message(), os.ErrProcessDone)
	}
	return errors.New(s.Message())
}

// PID implements [shim.ForeignShim].
func (c *connection) PID() int { return c.where.PID }

// Gone implements [shim.ForeignShim].
func (c *connection) Gone() <-chan struct{} { return c.gone }

// End implements [shim.ForeignShim].
func (c *connection) End(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, endPatience)
	defer cancel()
	_ = c.call(ctx, "Shutdown", &task.ShutdownRequest{ID: c.bundle.ID, Now: true}, &emptypb.Empty{}) // it may exit before it answers
	select {
	case <-c.gone:
	case <-ctx.Done():
	}
	var err error
	if c.where.PID > 0 {
		err = c.where.kill(endPatience)
	} else {
		err = killOf(c.bundle.ID)
	}
	err = errors.Join(err, c.where.removeSockets(c.bundle))
	_ = c.client.Close() // nothing is buffered
	c.log.close()
	return err
}

// Create implements [shim.ForeignShim].
func (c *connection) Create(ctx context.Context, r shim.TaskRequest) (shim.Task, int, error) {
	options, err := encodeOptions(r.Bundle.Runtime)
	if err != nil {
		return nil, 0, err
	}
	var made task.CreateTaskResponse
	err = c.call(ctx, "Create", &task.CreateTaskRequest{
		ID: r.Bundle.ID, Bundle: r.Bundle.Dir, Terminal: r.Terminal, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Options: options,
	}, &made)
	if err != nil {
		return nil, 0, err
	}
	return c.Task(r.Bundle.ID), int(made.GetPid()), nil
}

// Task implements [shim.ForeignShim].
func (c *connection) Task(id string) shim.Task { return &container{process{c: c, id: id}} }

// process is the first process of a container, or with exec another.
type process struct {
	c        *connection
	id, exec string
}

// Start implements [shim.TaskProcess].
func (p *process) Start(ctx context.Context) (int, error) {
	var r task.StartResponse
	err := p.c.call(ctx, "Start", &task.StartRequest{ID: p.id, ExecID: p.exec}, &r)
	return int(r.GetPid()), err
}

// Wait implements [shim.TaskProcess].
func (p *process) Wait(ctx context.Context) (shimapi.ExitStatus, error) {
	var r task.WaitResponse
	if err := p.c.call(ctx, "Wait", &task.WaitRequest{ID: p.id, ExecID: p.exec}, &r); err != nil {
		return shimapi.ExitStatus{}, err
	}
	return exitStatus(r.GetExitStatus(), r.GetExitedAt()), nil
}

// exitStatus is how a process ended. A shim reports 128+n for one that signal n has ended,
// which is the same as for one that has exited with that code.
func exitStatus(code uint32, at *timestamppb.Timestamp) shimapi.ExitStatus {
	finished := at.AsTime()
	if at == nil || finished.Unix() <= 0 {
		finished = time.Now()
	}
	return shimapi.ExitStatus{Code: int(code), FinishedAt: finished}
}

// Kill implements [shim.TaskProcess].
func (p *process) Kill(ctx context.Context, signal int, all bool) error {
	return p.c.call(ctx, "Kill", &task.KillRequest{ID: p.id, ExecID: p.exec, Signal: uint32(signal), All: all}, &emptypb.Empty{})
}

// Delete implements [shim.TaskProcess].
func (p *process) Delete(ctx context.Context) error {
	return p.c.call(ctx, "Delete", &task.DeleteRequest{ID: p.id, ExecID: p.exec}, &task.DeleteResponse{})
}

// Resize implements [shim.TaskStreams].
func (p *process) Resize(ctx context.Context, width, height uint16) error {
	r := &task.ResizePtyRequest{ID: p.id, ExecID: p.exec, Width: uint32(width), Height: uint32(height)}
	return p.c.call(ctx, "ResizePty", r, &emptypb.Empty{})
}

// CloseInput implements [shim.TaskStreams].
func (p *process) CloseInput(ctx context.Context) error {
	return p.c.call(ctx, "CloseIO", &task.CloseIORequest{ID: p.id, ExecID: p.exec, Stdin: true}, &emptypb.Empty{})
}

// container is the task of a container.
type container struct{ process }

// Exec implements [shim.Task].
func (t *container) Exec(ctx context.Context, id string, spec json.RawMessage, r shim.TaskRequest) (shim.TaskProcess, error) {
	err := t.c.call(ctx, "Exec", &task.ExecProcessRequest{
		ID: t.id, ExecID: id, Terminal: r.Terminal, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr,
		Spec: &anypb.Any{TypeUrl: specType + "Process", Value: spec},
	}, &emptypb.Empty{})
	if err != nil {
		return nil, err
	}
	return &process{c: t.c, id: t.id, exec: id}, nil
}

// Update implements [shim.Task].
func (t *container) Update(ctx context.Context, limits *specs.LinuxResources) error {
	value, err := json.Marshal(limits)
	if err != nil {
		return err
	}
	r := &task.UpdateTaskRequest{ID: t.id, Resources: &anypb.Any{TypeUrl: specType + "LinuxResources", Value: value}}
	return t.c.call(ctx, "Update", r, &emptypb.Empty{})
}

// Started implements [shim.Task].
func (t *container) Started(ctx context.Context) (bool, error) {
	var r task.StateResponse
	err := t.c.call(ctx, "State", &task.StateRequest{ID: t.id}, &r)
	return r.GetStatus() == tasktypes.Status_RUNNING || r.GetStatus() == tasktypes.Status_PAUSED, err
}
