package sandbox

import (
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

	"berth/oci/procfs"
	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/sandbox/record"
)

// recovery loads what earlier daemons left and finishes what they had begun.
type recovery struct {
	paths    layout
	index    *index
	teardown *teardown
	watch    *shimWatch
	images   Images
	network  Network
	mounts   Mounts
	shims    *shims.Set
	bootID   string
	events   *broadcaster
	tell     teller
	found    map[string]map[string]shimapi.Record // by shim and ID, see [shims.Set.Found]; nil once Recover has returned
	finishBy time.Time                            // see finish; set once, by Recover
	settled  chan struct{}                        // closed when the tasks of Recover have ended
}

// Recover loads the pods on disk and brings memory in line with the facts: what
// lives is adopted, what was half-made is destroyed, what another boot left is
// reported as ended and its network released. A pod whose record is damaged
// is put aside; the node goes on. Where a record can't be read for another reason, Recover
// fails before it changes anything. What takes long, as the network may, or the end of a
// container without its shim, goes on when it has returned, see [Runtime.Settled]. It then
// follows the shims' events until ctx ends.
func (r *recovery) Recover(ctx context.Context) error {
	pods, err := r.load(ctx)
	if err != nil {
		return err
	}
	r.finishBy = time.Now().Add(finishTime)
	r.found = r.shims.Found()
	var tasks []task
	for _, p := range pods {
		left, err := r.recoverPod(ctx, p)
		tasks = append(tasks, left...)
		if err != nil {
			klog.FromContext(ctx).Error(err, "A pod sandbox could not be recovered", "pod", p.id)
		}
	}
	if err := r.sweepState(ctx, tasks); err != nil {
		klog.FromContext(ctx).Error(err, "Leftovers of earlier pods could not all be removed")
	}
	tasks = append(tasks, r.watch.unknown(r.found)...)
	r.found = nil
	go r.watch.follow(ctx)
	r.settle(ctx, tasks)
	return nil
}

// recoverPod takes a pod in and says what is left to do about it.
func (r *recovery) recoverPod(ctx context.Context, left leftPod) ([]task, error) {
	id, rec := left.id, left.rec
	if errors.Is(left.err, fs.ErrNotExist) && !r.hasContainers(id) {
		return nil, eraseDir(ctx, r.paths.podDir(id), record.PodFile) // made no further than its directory
	}
	if left.err != nil {
		return r.quarantine(id, left.err)
	}
	rec.ID = id // the directory's name counts, as for all other paths
	rec.derive(r.paths)
	s := newSandbox(r.paths.podFile(id, record.PodFile), rec)
	r.tell.adoptPod(s)
	r.index.addPod(s)
	// What can't be recovered of it must not keep the pod from being settled.
	var tasks []task
	errs := []error{r.holdSandboxImage(s)}
	for _, c := range left.containers {
		ends, err := r.recoverContainer(ctx, s, c)
		tasks, errs = append(tasks, ends...), append(errs, err)
	}
	err := errors.Join(errs...)
	switch {
	case rec.Intent.CutShort():
		tasks = append(tasks, r.unfinished(s))
	case rec.Intent == record.Stopped:
		s.end()
	case rec.Intent == record.Stopping || rec.BootID != r.bootID || !r.pauseLives(&rec):
		tasks = append(tasks, r.retired(s))
	}
	return tasks, err
}

// hasContainers tells whether a pod may have containers. One without a record that does has lost
// it: the record is written before the first container, and is the last to be removed.
func (r *recovery) hasContainers(pod string) bool {
	entries, err := os.ReadDir(r.paths.containersDir(pod))
	return len(entries) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist)
}

// finishTime is how long a start may take, in all, to remove the containers that the
// daemon before began to remove.
const finishTime = 5 * time.Second

// finish ends a removal that the daemon before began. What is not done in time, such
// as a tree of millions of files, or a process in uninterruptible sleep, goes on in the
// background: until it ends the container is listed as any whose removal failed, and a call
// to remove it waits.
func (r *recovery) finish(ctx context.Context, own slot, destroy func(context.Context) error) error {
	if err := own.take(ctx); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		err := destroy(ctx)
		own.free()
		done <- err
	}()
	timer := time.NewTimer(time.Until(r.finishBy))
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
	}
	go func() {
		if err := <-done; err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "A removal that an earlier daemon began has failed")
		}
	}()
	return nil
}

func (r *recovery) pauseLives(rec *podRecord) bool {
	if _, err := r.shims.Get(rec.ShimID); err != nil {
		return false
	}
	// Its shim tells of the end that can't be seen here.
	if told, ok := r.found[rec.ShimID][rec.ID]; ok && told.Status == shimapi.StatusRunning && told.PID == rec.PausePID {
		return true
	}
	return !errors.Is(procfs.Lives(rec.PausePID, rec.PauseStart), procfs.ErrEnded)
}

// quarantine moves a pod's directory away and gives the task that releases what the pod
// holds.
func (r *recovery) quarantine(id string, cause error) ([]task, error) {
	left := []task{r.quarantined(id)}
	if err := os.MkdirAll(r.paths.quarantineDir(), 0o700); err != nil {
		return left, errors.Join(cause, err)
	}
	to := filepath.Join(r.paths.quarantineDir(), id)
	if err := os.Rename(r.paths.podDir(id), to); err != nil {
		return left, errors.Join(cause, err)
	}
	return left, fmt.Errorf("record is unreadable, the pod was put aside in %s: %w", to, cause)
}

// recoverContainer takes a container in and gives the task that ends it, if its shim is gone.
func (r *recovery) recoverContainer(ctx context.Context, s *Sandbox, left leftContainer) ([]task, error) {
	id, rec := left.id, left.rec
	if left.err != nil {
		// Without its record the container can't be told of, only removed.
		klog.FromContext(ctx).Error(left.err, "A container's record is of no use; the container is removed", "container", id, "pod", s.id)
		rec = containerRecord{config: &runtimeapi.ContainerConfig{}, Container: record.Container{ID: id, PodID: s.id, Intent: record.Making}}
	}
	rec.ID = id
	c := newContainer(s, r.paths.containerFile(s.id, id, record.ContainerFile), rec)
	r.tell.adopt(c)
	defer c.startEndNotice(r.tell.whenEnded)
	r.index.addContainer(c)
	unread := r.learnFact(c)
	if unread != nil {
		klog.FromContext(ctx).Error(unread, "The status of a container waits for an event of its shim", "container", c.id)
	}
	c.publish()
	c.startEvents(r.events.publish)
	if rec.Intent.CutShort() {
		return nil, r.finish(ctx, c.slot, func(ctx context.Context) error { return r.teardown.destroyContainer(ctx, c) })
	}
	if !rec.LostAt.IsZero() {
		c.markLost(rec.LostAt)
	}
	held := r.images.Hold(id, rec.Held())
	if held != nil { // it runs or has to be ended all the same
		held = fmt.Errorf("hold the layers of container %s: %w", id, held)
	}
	if c.state() == runtimeapi.ContainerState_CONTAINER_EXITED {
		return nil, held
	}
	_, err := s.shimIn(r.shims)
	if err == nil && rec.BootID == r.bootID {
		return nil, held
	}
	if rec.BootID != r.bootID && unread == nil {
		r.teardown.recordLoss(c) // its process is gone for certain, and its PID may be a stranger's
	}
	return []task{r.orphan(c)}, held
}

// learnFact takes in what the shim of a container has listed. The record on disk says no more,
// and is read when the shim is gone, or did not answer.
func (r *recovery) learnFact(c *Container) error {
	if told, ok := r.found[c.pod.rec.get().ShimID][c.id]; ok {
		c.learn(told)
		return nil
	}
	return r.teardown.refreshFact(c)
}

// sweepState removes what is in the state directory of pods and containers that
// have no record: a crash between the removal of a record and of its state. A pod with
// a task still needs its state.
func (r *recovery) sweepState(ctx context.Context, tasks []task) error {
	var errs []error
	for _, kind := range []string{"pods", "containers"} {
		dir := filepath.Join(r.paths.state, kind)
		entries, err := os.ReadDir(dir)
		errs = append(errs, err)
		for _, e := range entries {
			if r.knows(kind, e.Name()) || slices.ContainsFunc(tasks, func(t task) bool { return t.pod == e.Name() }) {
				continue
			}
			klog.FromContext(ctx).Info("Removing state that has no record", "kind", kind, "id", e.Name())
			errs = append(errs, r.sweepOne(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// knows tells whether an entry of the state directory has a record.
func (r *recovery) knows(kind, id string) bool {
	if kind == "pods" {
		return r.index.podByID(id) != nil
	}
	return r.index.containerByID(id) != nil
}

func (r *recovery) sweepOne(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	errs := []error{r.teardown.unmountVolumes(filepath.Base(dir))} // a pod has none
	for _, e := range entries {
		errs = append(errs, r.mounts.Unmount(filepath.Join(dir, e.Name())))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return removeShell(dir)
}
