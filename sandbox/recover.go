package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/oci"
	"berth/oci/atomicfile"
	"berth/oci/shimapi"
	"berth/sandbox/record"
)

// Recover loads the pods on disk and brings memory in line with the facts: what
// lives is adopted, what was half-made is destroyed, what another boot left is
// reported as ended and its network released. A pod whose record can't be read
// is put aside; the node goes on. What takes long, as the network may, goes on when it
// has returned, see [Manager.Settled]. It then follows the shims' events until ctx ends.
func (m *Manager) Recover(ctx context.Context) error {
	entries, err := os.ReadDir(m.podsDir())
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	m.finishBy = time.Now().Add(finishTime)
	var tasks []task
	for _, e := range entries {
		left, err := m.recoverPod(ctx, e.Name())
		tasks = append(tasks, left...)
		if err != nil {
			klog.FromContext(ctx).Error(err, "A pod sandbox could not be recovered", "pod", e.Name())
		}
	}
	if err := m.sweepState(ctx, tasks); err != nil {
		klog.FromContext(ctx).Error(err, "Leftovers of earlier pods could not all be removed")
	}
	for shim := range m.shimsInUse() {
		m.loseUnheld(ctx, shim)
	}
	go m.follow(ctx)
	m.settle(ctx, tasks)
	return nil
}

// recoverPod loads a pod and says what is left to do about it.
func (m *Manager) recoverPod(ctx context.Context, id string) ([]task, error) {
	var rec podRecord
	err := readOwn(ctx, m.podFile(id, record.PodFile), &rec)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, eraseDir(ctx, m.podDir(id), record.PodFile) // made no further than its directory
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
	rec.ID = id // the directory's name counts, as for all other paths
	s := newSandbox(m.podFile(id, record.PodFile), rec)
	m.addPod(s)
	// A container that can't be recovered must not keep its pod from being settled.
	err = m.recoverContainers(ctx, s)
	switch {
	case rec.Intent.CutShort():
		return []task{m.unfinished(s)}, err
	case rec.Intent == record.Stopped:
		s.end()
	case rec.Intent == record.Stopping || rec.BootID != m.bootID || !m.pauseLives(&rec):
		return []task{m.retired(s)}, err
	}
	return nil, err
}

// finishTime is how long a start may take, in all, to remove the containers that the
// daemon before began to remove.
const finishTime = 5 * time.Second

// finish ends a removal that the daemon before began. What is not done in time, such
// as a tree of millions of files, goes on in the background: until it ends the
// container is listed as any whose removal failed, and a call to remove it waits.
func (m *Manager) finish(ctx context.Context, own slot, destroy func(context.Context) error) error {
	soon, cancel := context.WithDeadline(ctx, m.finishBy)
	defer cancel()
	err := destroy(soon)
	if err == nil || soon.Err() == nil || ctx.Err() != nil {
		return err
	}
	if err := own.take(ctx); err != nil {
		return err
	}
	go func() {
		defer own.free()
		if err := destroy(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "A removal that an earlier daemon began has failed")
		}
	}()
	return nil
}

func (m *Manager) pauseLives(rec *podRecord) bool {
	if _, err := m.opt.Shims.Get(rec.ShimID); err != nil {
		return false
	}
	start, err := shimapi.StartTime(rec.PausePID)
	return err == nil && start == rec.PauseStart
}

// quarantine puts a pod aside, see putAside for the rest.
func (m *Manager) quarantine(id string, cause error) ([]task, error) {
	left := []task{m.putAside(id)}
	if err := os.MkdirAll(m.quarantineDir(), 0o700); err != nil {
		return left, errors.Join(cause, err)
	}
	to := filepath.Join(m.quarantineDir(), id)
	if err := os.Rename(m.podDir(id), to); err != nil {
		return left, errors.Join(cause, err)
	}
	return left, fmt.Errorf("record is unreadable, the pod was put aside in %s: %w", to, cause)
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

// readOwn reads a record that an earlier daemon wrote, which may have been killed as it
// wrote.
func readOwn(ctx context.Context, path string, v any) error {
	if err := atomicfile.DropCutOff(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.FromContext(ctx).Error(err, "A cut-off record stays", "record", path)
	}
	return atomicfile.Read(path, v)
}

func (m *Manager) recoverContainer(ctx context.Context, s *Sandbox, id string) error {
	var rec containerRecord
	err := readOwn(ctx, m.containerFile(s.id, id, record.ContainerFile), &rec)
	if err == nil {
		err = rec.decode()
	}
	if err != nil {
		// Without its record the container can't be told of, only removed.
		klog.FromContext(ctx).Error(err, "A container's record can't be read; the container is removed", "container", id, "pod", s.id)
		rec = containerRecord{config: &runtimeapi.ContainerConfig{}, Container: record.Container{ID: id, PodID: s.id, Intent: record.Making}}
	}
	rec.ID = id
	c := newContainer(s, m.containerFile(s.id, id, record.ContainerFile), rec)
	m.addContainer(c)
	m.refreshFact(c)
	c.publish()
	c.tellFromNow(m.events.publish)
	if rec.Intent.CutShort() {
		return m.finish(ctx, c.slot, func(ctx context.Context) error { return m.destroyContainer(ctx, c) })
	}
	if !rec.LostAt.IsZero() {
		c.lose(rec.LostAt)
	}
	if err := m.opt.Images.Hold(id, rec.Held()); err != nil {
		return fmt.Errorf("hold the layers of container %s: %w", id, err)
	}
	if c.state() == runtimeapi.ContainerState_CONTAINER_EXITED {
		return nil
	}
	if _, err := m.shimOf(s); err != nil || rec.BootID != m.bootID {
		return m.killOrphan(c)
	}
	return nil
}

// sweepState removes what is in the state directory of pods and containers that
// have no record: a crash between the removal of a record and of its state. A pod with
// a task still needs its state.
func (m *Manager) sweepState(ctx context.Context, tasks []task) error {
	var errs []error
	for _, kind := range []string{"pods", "containers"} {
		dir := filepath.Join(m.opt.State, kind)
		entries, err := os.ReadDir(dir)
		errs = append(errs, err)
		for _, e := range entries {
			if m.knows(kind, e.Name()) || slices.ContainsFunc(tasks, func(t task) bool { return t.pod == e.Name() }) {
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
	errs := []error{m.unmountVolumes(filepath.Base(dir))} // a pod has none
	for _, e := range entries {
		errs = append(errs, unmount(filepath.Join(dir, e.Name())))
	}
	if err := errors.Join(errs...); err != nil {
		return err
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
		m.shimGone(ctx, ev)
	case ev.Kind == oci.ShimReplaced:
		klog.FromContext(ctx).Error(nil, "A shim died; another has taken over its pods and containers", "shim", ev.ShimID)
		m.loseUnheld(ctx, ev.ShimID)
	case ev.Kind == oci.ShimLost:
		m.shimLost(ctx, ev.Record)
	case ev.Replay && !m.knowsAny(ev.Record):
		m.disownInTime(ctx, ev)
	case ev.Record.Pod == "":
		m.pauseEvent(ctx, ev.Record)
	default:
		m.containerEvent(ctx, ev.Record)
	}
}

func (m *Manager) knowsAny(r shimapi.Record) bool {
	if r.Pod == "" {
		return m.knows("pods", r.ID)
	}
	return m.knows("containers", r.ID)
}

// disownInTime disowns, a pause process whose namespace is still needed a little later.
func (m *Manager) disownInTime(ctx context.Context, ev oci.ShimEvent) {
	disown := func() {
		if err := m.disown(ctx, ev); err != nil {
			klog.FromContext(ctx).Error(err, "What a shim holds without a record could not be ended", "id", ev.Record.ID, "shim", ev.ShimID)
		}
	}
	m.mu.RLock()
	released := m.aside[ev.Record.ID]
	m.mu.RUnlock()
	if released == nil {
		disown()
		return
	}
	go func() {
		select {
		case <-released:
			disown()
		case <-ctx.Done(): // the next daemon does
		}
	}()
}

// disown ends what a shim holds and no record tells of, such as a pod that was put
// aside: nobody could stop it any more, and the kubelet starts it a second time.
func (m *Manager) disown(ctx context.Context, ev oci.ShimEvent) error {
	klog.FromContext(ctx).Info("Ending what a shim holds without a record", "id", ev.Record.ID, "pod", ev.Record.Pod, "shim", ev.ShimID)
	shim, err := m.opt.Shims.Get(ev.ShimID)
	switch {
	case err == nil && ev.Record.Pod != "":
		err = shim.Delete(ctx, ev.Record.ID)
	case err == nil:
		err = shim.RemovePod(ctx, ev.Record.ID)
	}
	if err != nil && !errors.Is(err, oci.ErrShimGone) {
		return err
	}
	pod := cmp.Or(ev.Record.Pod, ev.Record.ID)
	if m.knows("pods", pod) {
		return nil // a container of it was removed since the shim told of it
	}
	// The last of a pod to go leaves the cgroup empty that was made for it alone.
	_ = removeCgroup(m.opt.Host, m.cgroupParent(&podRecord{Pod: record.Pod{ID: pod}}))
	return nil
}

func (m *Manager) containerEvent(ctx context.Context, r shimapi.Record) {
	m.mu.RLock()
	c := m.containers[r.ID]
	m.mu.RUnlock()
	if c != nil {
		c.learn(r)
		return
	}
	if r.Status == shimapi.StatusStopped { // it may have outlived its pod
		if err := m.made.retry(m.opt.Host); err != nil {
			klog.FromContext(ctx).Error(err, "A cgroup that was made for a pod which is gone could not be removed")
		}
	}
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
