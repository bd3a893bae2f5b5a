package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/oci"
	"berth/oci/atomicfile"
	"berth/oci/shimapi"
)

// Recover loads the pods on disk and brings memory in line with the facts: what
// lives is adopted, what was half-made is destroyed, what another boot left is
// reported as ended and its network released. A pod whose record can't be read
// is put aside; the node goes on. It then follows the shims' events until ctx ends.
func (m *Manager) Recover(ctx context.Context) error {
	entries, err := os.ReadDir(m.podsDir())
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	for _, e := range entries {
		if err := m.recoverPod(ctx, e.Name()); err != nil {
			klog.FromContext(ctx).Error(err, "A pod sandbox could not be recovered", "pod", e.Name())
		}
	}
	if err := m.sweepState(ctx); err != nil {
		klog.FromContext(ctx).Error(err, "Leftovers of earlier pods could not all be removed")
	}
	go m.follow(ctx)
	return nil
}

func (m *Manager) recoverPod(ctx context.Context, id string) error {
	var rec podRecord
	err := atomicfile.Read(m.podFile(id, podRecordName), &rec)
	if errors.Is(err, fs.ErrNotExist) {
		return eraseDir(m.podDir(id), podRecordName) // made no further than its directory
	}
	if err == nil {
		err = rec.decode()
	}
	if err != nil {
		return m.quarantine(id, err)
	}
	if !hostNetwork(rec.config) {
		rec.netns = m.netnsPath(id)
	}
	s := &Sandbox{id: id, slot: newSlot(), done: make(chan struct{})}
	s.commit(rec)
	m.addPod(s)
	if err := m.recoverContainers(ctx, s); err != nil {
		return err
	}
	switch {
	case rec.Intent == intentMaking:
		return m.destroyPod(ctx, s)
	case rec.Intent == intentStopped:
		s.end()
		return nil
	case rec.BootID != m.bootID || !m.pauseLives(&rec):
		return m.retire(ctx, s)
	}
	return nil
}

// retire releases a pod whose pause process is gone; it stays, not ready, until
// it is removed.
func (m *Manager) retire(ctx context.Context, s *Sandbox) error {
	s.end()
	s.beginStop()
	if err := m.releasePod(ctx, s); err != nil {
		return err
	}
	return m.markStopped(s)
}

func (m *Manager) pauseLives(rec *podRecord) bool {
	if _, err := m.opt.Shims.Get(rec.ShimID); err != nil {
		return false
	}
	start, err := startTime(rec.PausePID)
	return err == nil && start == rec.PauseStart
}

func (m *Manager) quarantine(id string, cause error) error {
	if err := os.MkdirAll(m.quarantineDir(), 0o700); err != nil {
		return errors.Join(cause, err)
	}
	to := filepath.Join(m.quarantineDir(), id)
	if err := os.Rename(m.podDir(id), to); err != nil {
		return errors.Join(cause, err)
	}
	return fmt.Errorf("record is unreadable, the pod was put aside in %s: %w", to, cause)
}

func (m *Manager) recoverContainers(ctx context.Context, s *Sandbox) error {
	entries, err := os.ReadDir(m.containersDir(s.id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, m.recoverContainer(ctx, s, e.Name()))
	}
	return errors.Join(errs...)
}

func (m *Manager) recoverContainer(ctx context.Context, s *Sandbox, id string) error {
	var rec containerRecord
	err := atomicfile.Read(filepath.Join(m.containerDir(s.id, id), containerRecordName), &rec)
	if err == nil {
		err = rec.decode()
	}
	if err != nil {
		// Without its record the container can't be told of, only removed.
		klog.FromContext(ctx).Error(err, "A container's record can't be read; the container is removed", "container", id, "pod", s.id)
		rec = containerRecord{ID: id, PodID: s.id, Intent: intentMaking, config: &runtimeapi.ContainerConfig{}}
	}
	c := &Container{id: id, pod: s, slot: newSlot(), done: make(chan struct{})}
	m.addContainer(c)
	m.refreshFact(c)
	c.commit(rec)
	if rec.Intent == intentMaking {
		return m.destroyContainer(ctx, c)
	}
	if err := m.opt.Images.Hold(id, rec.held()); err != nil {
		return fmt.Errorf("hold the layers of container %s: %w", id, err)
	}
	if c.state() == runtimeapi.ContainerState_CONTAINER_EXITED {
		return nil
	}
	if _, err := m.shimOf(s); err != nil || rec.BootID != m.bootID {
		m.killOrphan(c)
	}
	return nil
}

// sweepState removes what is in the state directory of pods and containers that
// have no record: a crash between the removal of a record and of its state.
func (m *Manager) sweepState(ctx context.Context) error {
	var errs []error
	for _, kind := range []string{"pods", "containers"} {
		dir := filepath.Join(m.opt.State, kind)
		entries, err := os.ReadDir(dir)
		errs = append(errs, err)
		for _, e := range entries {
			if m.knows(kind, e.Name()) {
				continue
			}
			klog.FromContext(ctx).Info("Removing state that has no record", "kind", kind, "id", e.Name())
			errs = append(errs, m.sweepOne(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) knows(kind, id string) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if kind == "pods" {
		_, ok := m.pods[id]
		return ok
	}
	_, ok := m.containers[id]
	return ok
}

func (m *Manager) sweepOne(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := unmount(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return removeShell(dir)
}

// follow takes in what the shims tell until ctx ends.
func (m *Manager) follow(ctx context.Context) {
	events := m.opt.Shims.Events()
	for {
		select {
		case ev, ok := <-events:
			if !ok {
				return
			}
			m.take(ctx, ev)
		case <-ctx.Done():
			return
		}
	}
}

func (m *Manager) take(ctx context.Context, ev oci.ShimEvent) {
	switch {
	case ev.Kind == oci.ShimGone:
		m.shimGone(ctx, ev.ShimID)
	case ev.Record.Pod == "":
		m.pauseEvent(ctx, ev.Record)
	default:
		m.containerEvent(ev.Record)
	}
}

func (m *Manager) containerEvent(r shimapi.Record) {
	m.mu.RLock()
	c := m.containers[r.ID]
	m.mu.RUnlock()
	if c == nil || !c.learn(r) || r.Status != shimapi.StatusStopped {
		return
	}
	m.events.publish(Event{
		Type: runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, PodID: c.pod.id, ContainerID: c.id, At: r.FinishedAt,
	})
}

// pauseEvent: without its pause process a pod has lost its namespaces.
func (m *Manager) pauseEvent(ctx context.Context, r shimapi.Record) {
	m.mu.RLock()
	s := m.pods[r.ID]
	m.mu.RUnlock()
	if s == nil || r.Status != shimapi.StatusStopped || s.isStopping() || !s.end() {
		return // a stop in progress tells of the end itself
	}
	klog.FromContext(ctx).Info("The pause process of a pod sandbox ended; the pod is no longer ready", "pod", s.id, "code", r.ExitCode)
	m.events.publish(podEvent(s, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT))
}

// shimGone ends what a dead shim was the parent of: its containers have lost
// their streams and their exit codes with it.
func (m *Manager) shimGone(ctx context.Context, id string) {
	m.mu.RLock()
	var lost []*Sandbox
	for _, s := range m.pods {
		if s.record().ShimID == id {
			lost = append(lost, s)
		}
	}
	m.mu.RUnlock()
	for _, s := range lost {
		klog.FromContext(ctx).Error(nil, "The shim of a pod sandbox is gone; its containers are ended", "pod", s.id, "shim", id)
		for _, c := range m.containersOf(s) {
			m.killOrphan(c)
		}
		rec := s.record()
		if err := killPID(rec.PausePID, rec.PauseStart); err != nil {
			klog.FromContext(ctx).Error(err, "A pause process without its shim could not be ended", "pod", s.id)
		}
		if s.end() {
			m.events.publish(Event{Type: runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, PodID: s.id, ContainerID: s.id, At: time.Now()})
		}
	}
}
