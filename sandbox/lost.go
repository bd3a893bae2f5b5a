package sandbox

import (
	"context"
	"fmt"
	"maps"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/oci/shimapi"
	"berth/oci/shims"
)

const (
	// listTimeout bounds a list call to a shim, listAgain is the time to the next one.
	listTimeout = 10 * time.Second
	listAgain   = 5 * time.Second
)

// unknown gives the tasks that end what the shims did not list when the set was opened: since
// then nothing was made. A shim that did not answer is asked when it does, and one that was
// replaced once more; events tell of both.
func (w *shimWatch) unknown(found map[string]map[string]shimapi.Record) []task {
	var tasks []task
	for shim, held := range found {
		lost := w.liveIn(shim)
		maps.DeleteFunc(lost, func(id string, _ shimapi.Record) bool {
			_, is := held[id]
			return is
		})
		for _, r := range lost {
			tasks = append(tasks, task{pod: podOf(r), end: true, do: func(ctx context.Context) error {
				w.endNotAdopted(ctx, r)
				return nil
			}})
		}
	}
	return tasks
}

// endUnlisted ends, in the background, the pods and containers whose records name this shim
// but which the shim does not list. That happens when a daemon died while it handed the pods
// of a dead shim over to the replacement, or when a shim died before the next daemon had
// copies of its containers' streams. Such a container would stay "running" for ever, so a
// shim that does not answer is asked again.
func (w *shimWatch) endUnlisted(ctx context.Context, shimID string) {
	go func() {
		lost, err := w.unlisted(ctx, shimID)
		if err != nil {
			klog.FromContext(ctx).Error(err, "A shim does not tell what it holds; it is asked again", "shim", shimID)
		}
		for err != nil { // a shim that has ended is not asked any more
			select {
			case <-time.After(listAgain):
				lost, err = w.unlisted(ctx, shimID)
			case <-ctx.Done():
				return
			}
		}
		for _, r := range lost {
			w.addEnd(ctx, r)
		}
	}()
}

// unlisted asks a shim what it holds, and returns the pods and containers whose records name
// it but which it does not list; none of a shim that is gone.
func (w *shimWatch) unlisted(ctx context.Context, shimID string) (map[string]shimapi.Record, error) {
	shim, err := w.shims.Get(shimID)
	if err != nil {
		return nil, nil //nolint:nilerr // it tells of its end itself
	}
	lost := w.liveIn(shimID) // first: what becomes whole meanwhile is held by then
	listing, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	held, err := shim.List(listing)
	if err != nil {
		return nil, err
	}
	for _, r := range append(held.Pods, held.Containers...) {
		delete(lost, r.ID)
	}
	return lost, nil
}

// liveIn returns the ready pods and the created or running containers whose records name
// this shim.
func (w *shimWatch) liveIn(shimID string) map[string]shimapi.Record {
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

// addEnd is endNotAdopted in the background.
func (w *shimWatch) addEnd(ctx context.Context, r shimapi.Record) {
	w.ends.add(ctx, podOf(r), func(ctx context.Context) { w.endNotAdopted(ctx, r) })
}

// endNotAdopted ends a pause process or container that the replacement of a dead shim
// could not adopt.
func (w *shimWatch) endNotAdopted(ctx context.Context, r shimapi.Record) {
	s, c := w.index.podByID(r.ID), w.index.containerByID(r.ID)
	switch {
	case c != nil && c.state() == runtimeapi.ContainerState_CONTAINER_EXITED: // its end is known already
	case c != nil:
		klog.FromContext(ctx).Error(nil, "A container could not be taken over from a dead shim; it is ended", "container", c.id, "pod", c.pod.id)
		w.endOrphan(ctx, c)
	case s != nil:
		w.endPause(ctx, s)
	}
}

// endOrphan is killOrphan for callers that have nobody to return the error to. A stop or
// removal of the container tries again.
func (w *shimWatch) endOrphan(ctx context.Context, c *Container) {
	if err := w.teardown.killOrphan(c); err != nil {
		klog.FromContext(ctx).Error(err, "A container without its shim is not wholly gone", "container", c.id, "pod", c.pod.id)
	}
}

// endPause ends a pause process whose shim is gone; its pod is not ready any more.
func (w *shimWatch) endPause(ctx context.Context, s *Sandbox) {
	if err := w.teardown.killPause(s.rec.get()); err != nil {
		klog.FromContext(ctx).Error(err, "A pause process without its shim could not be ended", "pod", s.id)
	}
	if s.end() {
		w.events.publish(podEvent(s, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT))
	}
}

// shimGone ends, in the background, the pods and containers of a dead shim that could not be
// replaced. The streams and exit codes of the containers are lost.
func (w *shimWatch) shimGone(ctx context.Context, ev shims.Event) {
	if ev.Record.Message != "" {
		w.health.noteShim(fmt.Errorf("shim %s died and can't be replaced: %s", ev.ShimID, ev.Record.Message))
	}
	for _, s := range w.index.allPods() {
		if s.rec.get().ShimID != ev.ShimID {
			continue
		}
		klog.FromContext(ctx).Error(nil, "The shim of a pod sandbox is gone; its containers are ended", "pod", s.id, "shim", ev.ShimID, "reason", ev.Record.Message)
		w.ends.add(ctx, s.id, func(ctx context.Context) {
			for _, c := range w.index.containersOf(s) {
				w.endOrphan(ctx, c)
			}
			w.endPause(ctx, s)
		})
	}
}
