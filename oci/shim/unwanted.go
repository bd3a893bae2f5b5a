package shim

import (
	"errors"
	"log/slog"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/shimapi"
)

const (
	// unwantedGrace is how long the deletion of a container waits for its creation to end
	// once its processes are killed. A creation that hangs in the kernel, in a mount from a
	// dead server for example, is left alone after that.
	unwantedGrace = 2 * time.Second
	// unwantedPause is how often its processes are looked for meanwhile: there is no event
	// when the creation starts one.
	unwantedPause = 20 * time.Millisecond
)

// abortCreate kills what the creation of a container has started, because the container was
// deleted meanwhile. It reports whether the creation has ended. If it has not, create itself
// removes the container in the end.
func (cs *containers) abortCreate(ctr *container) bool {
	select {
	case <-ctr.ready:
		return true
	default:
	}
	ctr.unwanted.Store(true)
	over := make(chan struct{})
	defer close(over)
	go cs.killCreated(ctr, over)
	select {
	case <-ctr.ready:
		return true
	case <-time.After(unwantedGrace):
		slog.Error("the making of a container does not end; it is given up", "container", ctr.id)
		return false
	}
}

// killCreated kills the processes that the creation of a container starts, again and again
// until over is closed.
func (cs *containers) killCreated(ctr *container, over <-chan struct{}) {
	again := time.NewTicker(unwantedPause)
	defer again.Stop()
	for {
		if err := cs.state.removeNoted(ctr.id); err != nil {
			slog.Error("processes of a container that is being made are not ended", "container", ctr.id, "error", err)
		}
		select {
		case <-ctr.ready:
			return
		case <-over:
			return
		case <-again.C:
		}
	}
}

// made marks the end of a container's creation. If the container was deleted meanwhile, made
// removes it.
func (cs *containers) made(ctr *container) {
	close(ctr.ready)
	if !ctr.unwanted.Load() {
		return
	}
	if _, err := cs.delete(nil, shimapi.IDRequest{ID: ctr.id}); err != nil {
		slog.Error("container that is not wanted stays", "container", ctr.id, "error", err)
	}
	// The daemon does not wait for it any more, but may keep what the container used
	// until now.
	cs.hub.publish(shimapi.EventDeleted, shimapi.Record{ID: ctr.id, Pod: ctr.pod, Status: shimapi.StatusStopped})
	cs.hub.forget(ctr.id)
}

// buildWhole is [containers.build] whose panic is an error like others: libcontainer panics
// where it lacks a file, for one. Else the container would be neither made nor gone, and its
// pod could not be removed.
func (cs *containers) buildWhole(ctr *container, spec *specs.Spec, r shimapi.CreateRequest, st *stages) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		slog.Error("panic", "method", shimapi.MethodCreate, "panic", p, "stack", stack())
		if ctr.io != nil {
			ctr.io.closeGiven()
			ctr.io.close()
		}
		err = errors.Join(fault(shimapi.KindInternal, "panic: %v", p), cs.state.deleteRest(ctr.id))
	}()
	return cs.build(ctr, spec, r, st)
}
