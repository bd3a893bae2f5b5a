package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/oci/cgroup"
)

const (
	// settleTime is how long a start waits, in all, for the pods that earlier daemons
	// left to be released. Most are within it, and the kubelet sees a settled node. A
	// CNI plugin that hangs must not hold up the start: it may well wait for a pod that
	// this very daemon is to run.
	settleTime = time.Second
	// settleTogether is how many pods are released side by side.
	settleTogether = 8
)

// task releases what an earlier daemon left of one pod.
type task struct {
	pod string
	end bool // of a process without its shim; the pod's other tasks come after its ends
	do  func(context.Context) error
}

// settle runs the tasks in the background and waits for them until settleTime is over.
func (r *recovery) settle(ctx context.Context, tasks []task) {
	ended := make(map[string]<-chan struct{}) // by pod, with the last of its ends
	for _, t := range tasks {
		if t.end { // not among settleTogether: no end waits for a network
			ended[t.pod] = r.watch.ends.add(ctx, t.pod, func(ctx context.Context) { t.try(ctx) })
		}
	}
	go func() {
		defer close(r.settled)
		var wait sync.WaitGroup
		for _, done := range ended {
			wait.Go(func() { <-done })
		}
		slots := make(chan struct{}, settleTogether)
		for _, t := range tasks {
			if !t.end {
				wait.Go(func() { t.tryAfter(ctx, ended[t.pod], slots) })
			}
		}
		wait.Wait()
		r.sweepCgroups(ctx)
	}()
	timer := time.NewTimer(settleTime)
	defer timer.Stop()
	select {
	case <-r.settled:
	case <-timer.C:
		klog.FromContext(ctx).Info("Pods that earlier daemons left are still being released, in the background")
	}
}

// tryAfter is try when the ends of the pod are done, which nil stands for, too, and there is
// a slot. When ctx ends first the next daemon finds what is left.
func (t task) tryAfter(ctx context.Context, ended <-chan struct{}, slots chan struct{}) {
	if ended != nil {
		<-ended
	}
	select {
	case slots <- struct{}{}:
		t.try(ctx)
		<-slots
	case <-ctx.Done():
	}
}

func (t task) try(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	if err := t.do(ctx); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "What an earlier daemon left of a pod sandbox could not be released; stopping or removing the pod tries again", "pod", t.pod)
	}
}

// sweepCgroups removes the cgroups that this node made for pods which are no more: one that
// was busy when its pod went, and which no later pod came across.
func (r *recovery) sweepCgroups(ctx context.Context) {
	for name, dirs := range cgroup.MarkedFor(r.paths.state) { // before the pods are asked for: a pod is known before its cgroup is made
		if r.index.hasPodPart(cgroup.PodPart(name)) || ctx.Err() != nil {
			continue
		}
		klog.FromContext(ctx).Info("Removing a cgroup of a pod that has no record", "cgroup", name)
		var errs []error
		for _, dir := range dirs {
			errs = append(errs, cgroup.Kill(dir, killTimeout, nil))
		}
		for _, dir := range dirs {
			errs = append(errs, cgroup.RemoveEmptied(dir, killTimeout))
		}
		if err := errors.Join(errs...); err != nil {
			klog.FromContext(ctx).Error(err, "A cgroup of a pod that has no record stays", "cgroup", name)
		}
	}
}

// Settled is closed when [Runtime.Recover] has tried to release all that earlier
// daemons left, which may be after it returned.
func (r *recovery) Settled() <-chan struct{} { return r.settled }

// orphan is the task that ends a container whose shim is gone.
func (r *recovery) orphan(c *Container) task {
	return task{pod: c.pod.id, end: true, do: func(context.Context) error { return r.teardown.killOrphan(c) }}
}

// unfinished is the task of a pod that was half made or half removed.
func (r *recovery) unfinished(s *Sandbox) task {
	return task{pod: s.id, do: r.asVerb(s, func(ctx context.Context) error {
		if r.index.podByID(s.id) == nil {
			return nil // a call has removed it
		}
		return r.teardown.destroyPod(ctx, s)
	})}
}

// retired is the task of a pod that was being stopped or whose pause process is gone.
// The pod stays, not ready, until it is removed.
func (r *recovery) retired(s *Sandbox) task {
	s.end()
	s.beginStop()
	return task{pod: s.id, do: r.asVerb(s, func(ctx context.Context) error { return r.teardown.stopHeld(ctx, s) })}
}

// asVerb makes do a verb of the pod: a call that comes meanwhile waits for its end, and
// does again what it failed to do.
func (r *recovery) asVerb(s *Sandbox, do func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := s.slot.take(ctx); err != nil {
			return err
		}
		defer s.slot.free()
		return do(ctx)
	}
}

// quarantined is the task of a pod in quarantine: its network is released by the pod's ID
// while the namespace is still there. Its processes are ended when their shim reports them,
// see endUnrecorded, but the pause process, which holds the namespace, not before this task.
func (r *recovery) quarantined(id string) task {
	released := make(chan struct{})
	r.watch.mu.Lock()
	r.watch.aside[id] = released
	r.watch.mu.Unlock()
	return task{pod: id, do: func(ctx context.Context) error {
		defer close(released)
		unknown := PodNetwork{PodID: id, NetNS: r.paths.netnsPath(id), Config: &runtimeapi.PodSandboxConfig{}}
		if err := r.network.Detach(ctx, unknown); err != nil {
			return fmt.Errorf("release pod network: %w", err)
		}
		return r.sweepOne(r.paths.podStateDir(id))
	}}
}
