package sandbox

import (
	"context"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/oci/shimapi"
	"berth/oci/shims"
)

// heldPatience bounds the question to a shim what it holds.
const heldPatience = 10 * time.Second

// shimsInUse are the shims that pods are said to be in.
func (w *shimWatch) shimsInUse() map[string]bool {
	used := make(map[string]bool)
	for _, s := range w.index.allPods() {
		used[s.rec.get().ShimID] = true
	}
	return used
}

// loseUnheld ends what is said to be in a shim that does not hold it: when a daemon
// dies while it hands over to the heir of a shim, or a shim before it lent what the
// next daemon would hand over, nobody has the streams of some container, or waits
// for a pause, and nobody else would ever tell.
func (w *shimWatch) loseUnheld(ctx context.Context, shimID string) {
	shim, err := w.shims.Get(shimID)
	if err != nil {
		return // it tells of its end itself
	}
	lost := w.wholeIn(shimID) // first: what becomes whole meanwhile is held by then
	ctx, cancel := context.WithTimeout(ctx, heldPatience)
	defer cancel()
	held, err := shim.List(ctx)
	if err != nil {
		klog.FromContext(ctx).Error(err, "A shim does not tell what it holds", "shim", shimID)
		return
	}
	for _, r := range append(held.Pods, held.Containers...) {
		delete(lost, r.ID)
	}
	for _, r := range lost {
		w.shimLost(ctx, r)
	}
}

// wholeIn are the pods and containers of a shim that are made and have not ended.
func (w *shimWatch) wholeIn(shimID string) map[string]shimapi.Record {
	whole := make(map[string]shimapi.Record)
	for _, s := range w.index.allPods() {
		if st := s.status.Load(); st != nil && st.ShimID == shimID && st.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			whole[s.id] = shimapi.Record{ID: s.id}
		}
	}
	for _, c := range w.index.allContainers() {
		if c.status.Load() != nil && c.pod.rec.get().ShimID == shimID && c.state() != runtimeapi.ContainerState_CONTAINER_EXITED {
			whole[c.id] = shimapi.Record{ID: c.id, Pod: c.pod.id}
		}
	}
	return whole
}

// shimLost ends the one pause or container that the heir of a dead shim could not
// adopt.
func (w *shimWatch) shimLost(ctx context.Context, r shimapi.Record) {
	s, c := w.index.podByID(r.ID), w.index.containerByID(r.ID)
	switch {
	case c != nil && c.state() == runtimeapi.ContainerState_CONTAINER_EXITED: // it was told before
	case c != nil:
		klog.FromContext(ctx).Error(nil, "A container could not be taken over from a dead shim; it is ended", "container", c.id, "pod", c.pod.id)
		w.endOrphan(ctx, c)
	case s != nil:
		w.endPause(ctx, s)
	}
}

// endOrphan is killOrphan where nobody waits for the error; stop and removal try
// again.
func (w *shimWatch) endOrphan(ctx context.Context, c *Container) {
	if err := w.teardown.killOrphan(c); err != nil {
		klog.FromContext(ctx).Error(err, "A container without its shim is not wholly gone", "container", c.id, "pod", c.pod.id)
	}
}

// endPause ends a pause process that has no shim any more, and with it its pod.
func (w *shimWatch) endPause(ctx context.Context, s *Sandbox) {
	if err := w.teardown.killPause(s.rec.get()); err != nil {
		klog.FromContext(ctx).Error(err, "A pause process without its shim could not be ended", "pod", s.id)
	}
	if s.end() {
		w.events.publish(Event{Type: runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, PodID: s.id, ContainerID: s.id, At: time.Now()})
	}
}

// shimGone ends what a dead shim was the parent of, when no other could take it
// over: its containers have lost their streams and their exit codes with it.
func (w *shimWatch) shimGone(ctx context.Context, ev shims.Event) {
	if ev.Record.Message != "" {
		w.health.noteShim(fmt.Errorf("shim %s died and can't be replaced: %s", ev.ShimID, ev.Record.Message))
	}
	for _, s := range w.index.allPods() {
		if s.rec.get().ShimID != ev.ShimID {
			continue
		}
		klog.FromContext(ctx).Error(nil, "The shim of a pod sandbox is gone; its containers are ended", "pod", s.id, "shim", ev.ShimID, "reason", ev.Record.Message)
		for _, c := range w.index.containersOf(s) {
			w.endOrphan(ctx, c)
		}
		w.endPause(ctx, s)
	}
}
