package shims

import (
	"context"
	"errors"
	"fmt"

	"berth/oci/shimapi"
)

// Shim is one shim: an ID, a directory, and the process that serves there. When the
// process dies and another replaces it, the Shim stays the same. Its methods may be
// called concurrently. What the shim itself refuses is a *[shimapi.Error] with a Kind.
type Shim struct {
	set     *Set
	id, dir string

	// guarded by Set.mu
	process  *process            // the one that serves now, or served last
	pods     map[string]struct{} // by ID
	handover handovers
	reserved int              // pods that ForNewPod has promised room to
	leaving  bool             // it was told to exit
	found    []shimapi.Record // what it held when the set was opened, until [Set.Found]
}

// ID names the shim for [Set.Get].
func (sh *Shim) ID() string { return sh.id }

// PID is the process ID of the shim.
func (sh *Shim) PID() int {
	sh.set.mu.Lock()
	defer sh.set.mu.Unlock()
	return sh.process.pid
}

// Delayed tells whether the shim is dead, and another could not be started yet.
func (sh *Shim) Delayed() bool {
	sh.set.mu.Lock()
	p := sh.process
	sh.set.mu.Unlock()
	select {
	case <-p.delayed:
		return p.successor() == nil && p.isReplaceable()
	default:
		return false
	}
}

// live returns the process that serves the shim. If that is dead it waits for the
// replacement. Without a replacement it returns the dead process.
func (sh *Shim) live(ctx context.Context) *process {
	sh.set.mu.Lock()
	p := sh.process
	sh.set.mu.Unlock()
	for p.isGone() {
		next := p.awaitReplacement(ctx)
		if next == nil {
			break
		}
		p = next
	}
	return p
}

// serveLocked makes p the process that serves the shim.
func (sh *Shim) serveLocked(p *process) {
	if sh.process != nil { // p has no pods but those that it has adopted
		clear(sh.pods)
		for id, h := range sh.handover {
			if h.Pod == "" {
				sh.pods[id] = struct{}{}
			}
		}
	}
	sh.process = p
}

// Ping asks the shim for its identity.
func (sh *Shim) Ping(ctx context.Context) (hello shimapi.HelloResponse, err error) {
	err = sh.call(ctx, shimapi.MethodHello, struct{}{}, &hello)
	return hello, err
}

// Release gives back the room that ForNewPod reserved, when no RunPod follows.
func (sh *Shim) Release() {
	sh.set.mu.Lock()
	defer sh.set.mu.Unlock()
	sh.reserved = max(0, sh.reserved-1)
}

// RunPod starts the pause process of a pod. It is not repeated if the shim dies during
// the call; the error then wraps [ErrGone] and the pod may or may not exist.
func (sh *Shim) RunPod(ctx context.Context, r *shimapi.RunPodRequest) (pause shimapi.RunPodResponse, err error) {
	state := shimapi.HandoverState{ID: r.ID, Dir: r.Dir}
	if r.NewNet {
		state.NetNSPath = r.NetNSPath
	}
	p := sh.live(ctx)
	if p.isGone() {
		sh.Release()
		return pause, p.unreplaced(fmt.Errorf("shim %s: %w", sh.id, ErrGone))
	}
	sh.set.mu.Lock()
	sh.pods[r.ID] = struct{}{}
	sh.reserved = max(0, sh.reserved-1)
	sh.keepLocked(p, state, nil)
	sh.set.mu.Unlock()
	ctx, end := traced(ctx, shimapi.MethodRunPod)
	defer func() { end(err) }()
	c := p.dial(ctx)
	c.WriteRequest(shimapi.MethodRunPod, r)
	err = c.answer(ctx, &pause)
	if refusal, ok := errors.AsType[*shimapi.Error](err); ok && refusal.Kind != shimapi.KindExists {
		sh.forget(r.ID) // the shim certainly does not have the pod
	}
	return pause, err
}

// UpdatePod changes the limits of a running pod's cgroup.
func (sh *Shim) UpdatePod(ctx context.Context, r *shimapi.UpdatePodRequest) error {
	return sh.call(ctx, shimapi.MethodUpdatePod, r, nil)
}

// StopPod kills the pause process and unmounts the pod's network namespace. An unknown
// pod is no error.
func (sh *Shim) StopPod(ctx context.Context, id string) error {
	return sh.call(ctx, shimapi.MethodStopPod, shimapi.IDRequest{ID: id}, nil)
}

// RemovePod makes the shim forget a pod. An unknown pod is no error. With its last pod
// a shim exits, unless it is of the daemon's version and shared.
func (sh *Shim) RemovePod(ctx context.Context, id string) error {
	if err := sh.call(ctx, shimapi.MethodRemovePod, shimapi.IDRequest{ID: id}, nil); err != nil {
		return err
	}
	config := sh.set.config
	version := sh.live(ctx).version
	if left := sh.forget(id); left == 0 && (config.PodsPerShim > 0 || version != config.Version) {
		_, err := sh.set.shutDownIfIdle(ctx, sh)
		return err
	}
	return nil
}

// forget removes a pod from what we know of the shim and returns how many pods the
// shim then has, those included that it has promised room to.
func (sh *Shim) forget(id string) (left int) {
	sh.set.mu.Lock()
	defer sh.set.mu.Unlock()
	delete(sh.pods, id)
	sh.handover.drop(id)
	return len(sh.pods) + sh.reserved
}

// Create makes a container, which then waits for Start. It is not repeated if the shim
// dies during the call.
func (sh *Shim) Create(ctx context.Context, r *shimapi.CreateRequest) (created shimapi.CreateResponse, err error) {
	ctx, end := traced(ctx, shimapi.MethodCreate)
	defer func() { end(err) }()
	c := sh.open(ctx, shimapi.MethodCreate, r)
	defer c.close()
	files, err := c.receive(ctx, &created)
	if err != nil {
		return created, err
	}
	if created.Handover == nil { // the shim lacked descriptors, or is older than the handover
		shimapi.CloseFiles(files)
		c.process.requestState(ctx, r.ID)
		return created, nil
	}
	sh.keep(c.process, *created.Handover, files)
	created.Handover = nil
	if c.process.isGone() {
		return created, sh.handOverLate(ctx, c.process, r.ID)
	}
	return created, nil
}

// Start lets a created container execute its command. If the shim dies during the call
// its replacement is asked again.
func (sh *Shim) Start(ctx context.Context, id string) (err error) {
	ctx, end := traced(ctx, shimapi.MethodStart)
	defer func() { end(err) }()
	repeated := false
	for p := sh.live(ctx); ; repeated = true {
		c := p.dial(ctx)
		c.WriteRequest(shimapi.MethodStart, shimapi.IDRequest{ID: id})
		err := c.answer(ctx, nil)
		if refusal, ok := errors.AsType[*shimapi.Error](err); ok && repeated && refusal.Kind == shimapi.KindNotRunning {
			return nil // the dead process has started it
		}
		if !errors.Is(err, ErrGone) {
			return err
		}
		next := p.awaitReplacement(ctx)
		if next == nil {
			return p.unreplaced(err)
		}
		p = next
	}
}

// Kill sends a signal.
func (sh *Shim) Kill(ctx context.Context, r *shimapi.KillRequest) error {
	return sh.call(ctx, shimapi.MethodKill, r, nil)
}

// Delete kills what is left of a container and removes it. An unknown container is no
// error.
func (sh *Shim) Delete(ctx context.Context, id string) error {
	err := sh.call(ctx, shimapi.MethodDelete, shimapi.IDRequest{ID: id}, nil)
	if err == nil {
		sh.set.mu.Lock()
		defer sh.set.mu.Unlock()
		sh.handover.drop(id)
	}
	return err
}

// Resize sets the size of a container's terminal.
func (sh *Shim) Resize(ctx context.Context, r *shimapi.ResizeRequest) error {
	return sh.call(ctx, shimapi.MethodResize, r, nil)
}

// CloseStdin ends a container's input.
func (sh *Shim) CloseStdin(ctx context.Context, id string) error {
	return sh.call(ctx, shimapi.MethodCloseStdin, shimapi.IDRequest{ID: id}, nil)
}

// Reopen makes the shim open the container's log at its path again, after a rotation
// has renamed the old file.
func (sh *Shim) Reopen(ctx context.Context, id string) error {
	return sh.call(ctx, shimapi.MethodReopen, shimapi.IDRequest{ID: id}, nil)
}

// Update changes a container's limits.
func (sh *Shim) Update(ctx context.Context, r *shimapi.UpdateRequest) error {
	return sh.call(ctx, shimapi.MethodUpdate, r, nil)
}

// List returns the records of all pods and containers of the shim.
func (sh *Shim) List(ctx context.Context) (held shimapi.ListResponse, err error) {
	err = sh.call(ctx, shimapi.MethodList, struct{}{}, &held)
	return held, err
}
