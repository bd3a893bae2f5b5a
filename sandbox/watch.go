package sandbox

import (
	"cmp"
	"context"
	"errors"
	"sync"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/oci"
	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/sandbox/record"
)

// shimWatch takes in what the shims report: facts about containers and pause processes,
// and the end of a shim. No event waits for what may take long, such as an end that an event
// before it asks for.
type shimWatch struct {
	index    *index
	teardown *teardown
	health   *health
	shims    *shims.Set
	host     oci.Host
	events   *broadcaster
	ends     *endings

	mu    sync.Mutex
	aside map[string]chan struct{} // of quarantined pods; closed when the network is released
}

// follow handles the events of all shims until ctx ends.
func (w *shimWatch) follow(ctx context.Context) {
	events := w.shims.Events()
	for {
		select {
		case ev, ok := <-events:
			if !ok {
				return
			}
			w.handle(ctx, ev)
		case <-ctx.Done():
			return
		}
	}
}

func (w *shimWatch) handle(ctx context.Context, ev shims.Event) {
	switch {
	case ev.Kind == shims.EventGone:
		w.shimGone(ctx, ev)
	case ev.Kind == shims.EventReplaced:
		klog.FromContext(ctx).Error(nil, "A shim died; another has taken over its pods and containers", "shim", ev.ShimID)
		w.endUnlisted(ctx, ev.ShimID)
	case ev.Kind == shims.EventDelayed:
		w.health.probe()
		klog.FromContext(ctx).Error(nil, "A shim died and can't be replaced yet; its containers run on, and their calls wait", "shim", ev.ShimID, "reason", ev.Record.Message)
	case ev.Kind == shims.EventAnswers:
		klog.FromContext(ctx).Info("A shim that did not answer when the daemon started does now", "shim", ev.ShimID)
		w.endUnlisted(ctx, ev.ShimID)
	case ev.Kind == shims.EventLost:
		w.addEnd(ctx, ev.Record)
	case ev.Replay && !w.knowsAny(ev.Record):
		w.endUnrecordedInTime(ctx, ev)
	case ev.Record.Pod == "":
		w.pauseEvent(ctx, ev.Record)
	default:
		w.containerEvent(ctx, ev.Record)
	}
}

func (w *shimWatch) knowsAny(r shimapi.Record) bool {
	if r.Pod == "" {
		return w.index.podByID(r.ID) != nil
	}
	return w.index.containerByID(r.ID) != nil
}

// podOf is the pod that a record of a shim belongs to, or that it is the pause process of.
func podOf(r shimapi.Record) string { return cmp.Or(r.Pod, r.ID) }

// endUnrecordedInTime is endUnrecorded, delayed for a pod in quarantine until its network,
// which needs the namespace of the pause process, is released.
func (w *shimWatch) endUnrecordedInTime(ctx context.Context, ev shims.Event) {
	endUnrecorded := func() {
		w.ends.add(ctx, podOf(ev.Record), func(ctx context.Context) {
			if err := w.endUnrecorded(ctx, ev); err != nil {
				klog.FromContext(ctx).Error(err, "What a shim holds without a record could not be ended", "id", ev.Record.ID, "shim", ev.ShimID)
			}
		})
	}
	w.mu.Lock()
	released := w.aside[ev.Record.ID]
	w.mu.Unlock()
	if released == nil {
		endUnrecorded()
		return
	}
	go func() { // not an end that waits: those of the pod's containers do not
		select {
		case <-released:
			endUnrecorded()
		case <-ctx.Done(): // the next daemon does
		}
	}()
}

// endUnrecorded ends a pause process or container that a shim holds and that no record
// names, such as one of a pod in quarantine. Nobody could stop it any more, and the kubelet
// starts its pod a second time.
func (w *shimWatch) endUnrecorded(ctx context.Context, ev shims.Event) error {
	klog.FromContext(ctx).Info("Ending what a shim holds without a record", "id", ev.Record.ID, "pod", ev.Record.Pod, "shim", ev.ShimID)
	shim, err := w.shims.Get(ev.ShimID)
	switch {
	case err == nil && ev.Record.Pod != "":
		err = shim.Delete(ctx, ev.Record.ID)
	case err == nil:
		err = shim.RemovePod(ctx, ev.Record.ID)
	}
	if err != nil && !errors.Is(err, shims.ErrGone) {
		return err
	}
	pod := podOf(ev.Record)
	if w.index.podByID(pod) != nil {
		return nil // a container of it was removed since the shim told of it
	}
	// The last of a pod to go leaves the cgroups empty that were made for it alone. One
	// below a parent that the lost record named goes with that parent, the kubelet's.
	parent := cgroupParent(w.host, &podRecord{Pod: record.Pod{ID: pod}})
	if p := sandboxCgroup(w.host, parent, pod); p != "" {
		_ = removeCgroup(w.host, p) // an event may come before the pod is empty; the last one counts
	}
	_ = removeCgroup(w.host, parent)
	return nil
}

func (w *shimWatch) containerEvent(ctx context.Context, r shimapi.Record) {
	if c := w.index.containerByID(r.ID); c != nil {
		c.learn(r)
		return
	}
	if r.Status == shimapi.StatusStopped { // it may have outlived its pod
		if err := w.teardown.made.retry(w.host); err != nil {
			klog.FromContext(ctx).Error(err, "A cgroup that was made for a pod which is gone could not be removed")
		}
	}
}

// removeSandboxCgroup removes the cgroup of a pod sandbox whose pause process has ended: cAdvisor
// would read the network of whatever process gets the PID next. That of a foreign runtime goes
// with the rest of what the runtime made. The end of the pod tries again.
func (w *shimWatch) removeSandboxCgroup(s *Sandbox) {
	rec := s.rec.get()
	if rec.isForeign() {
		return
	}
	if p := sandboxCgroup(w.host, cgroupParent(w.host, rec), s.id); p != "" {
		if err := removeCgroup(w.host, p); err != nil {
			klog.Background().V(2).Info("The cgroup of a sandbox whose pause process ended stays for now", "pod", s.id, "error", err.Error())
		}
	}
}

// pauseEvent marks a pod whose pause process has ended, which held its namespaces, as not
// ready.
func (w *shimWatch) pauseEvent(ctx context.Context, r shimapi.Record) {
	s := w.index.podByID(r.ID)
	if s == nil || r.Status != shimapi.StatusStopped || s.isStopping() || !s.end() {
		return // a stop in progress tells of the end itself
	}
	w.removeSandboxCgroup(s)
	klog.FromContext(ctx).Info("The pause process of a pod sandbox ended; the pod is no longer ready", "pod", s.id, "code", r.ExitCode)
	w.events.publish(podEvent(s, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT))
}
