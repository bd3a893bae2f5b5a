package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/oci"
	"berth/oci/atomicfile"
	"berth/oci/dirtree"
	"berth/oci/failure"
	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/sandbox/record"
)

// teardown ends pods and containers and releases what they hold. What it does may be
// repeated and goes on past errors. It serves verbs that failed, stops and removals, and
// the recovery of what an earlier daemon left.
type teardown struct {
	paths       layout
	index       *index
	images      Images
	network     Network
	mounts      Mounts
	shims       *shims.Set
	host        oci.Host
	bootID      string
	events      *broadcaster
	made        *madeCgroups
	tell        teller
	stopTimeout time.Duration
}

// destroyPod is the one way a pod goes: release what it holds, erase what it
// left. It serves a failed run, RemovePod and recovery; it may be repeated, goes
// on past errors and forgets the pod only when nothing is left of it.
//
// The rows below are in the reverse order of acquisition; whoever acquires
// something new adds its row here in the same commit.
func (t *teardown) destroyPod(ctx context.Context, s *Sandbox) error {
	s.beginStop()
	if err := t.releasePod(ctx, s, true); err != nil {
		return err
	}
	return t.erasePod(ctx, s)
}

// releasePod: containers → network → pause and namespaces → shared memory →
// cgroups. s.slot is held, or nobody else knows the pod. For force see detach.
func (t *teardown) releasePod(ctx context.Context, s *Sandbox, force bool) error {
	if s.rec.get().Intent == record.Ready {
		// Killed from here on, the daemon must not take the pod for whole because
		// its pause process, which goes late, still runs.
		t.intend(ctx, s, record.Stopping)
	}
	rec := s.rec.get()
	var errs []error
	for _, c := range t.index.containersOf(s) {
		errs = append(errs, t.releaseContainer(ctx, c))
	}
	t.tell.podStopped(ctx, s)
	if err := t.detach(ctx, rec, force); err != nil {
		// The next try needs the namespace, to release all that the interface has.
		return errors.Join(append(errs, err)...)
	}
	errs = append(errs,
		t.releasePause(ctx, s),
		t.mounts.Unmount(t.paths.netnsPath(s.id)),
		t.mounts.Unmount(t.paths.shmPath(s.id)),
		t.releaseSandboxImage(s),
		removeShell(t.paths.podStateDir(s.id)),
		t.releasePodCgroups(rec),
	)
	return errors.Join(errs...)
}

func (t *teardown) releasePodCgroups(rec *podRecord) error {
	parent := cgroupParent(t.host, rec)
	var errs []error
	if p := sandboxCgroup(t.host, parent, rec.ID); p != "" {
		errs = append(errs, removeCgroup(t.host, p))
	}
	return errors.Join(append(errs, t.made.release(t.host, parent, rec.MadeCgroup))...)
}

// releasePause ends the pause process, by its shim or, when that is gone, by pid.
func (t *teardown) releasePause(ctx context.Context, s *Sandbox) error {
	defer s.end()
	rec := s.rec.get()
	if rec.ShimID == "" {
		return nil
	}
	shim, err := t.shims.Get(rec.ShimID)
	if err == nil {
		err = shim.StopPod(ctx, s.id)
	}
	if errors.Is(err, shims.ErrGone) && rec.isForeign() && rec.BootID == t.bootID {
		err = t.reclaimSandbox(ctx, rec)
	}
	if err == nil || errors.Is(err, shims.ErrGone) {
		err = t.killPause(rec) // the shim's replacement may not know a process that the shim had just started
	}
	if err != nil {
		return fmt.Errorf("end the pause process: %w", asDomain(err))
	}
	return nil
}

// killPause ends a pause process that no shim knows. Of a pod that was never whole
// only the shim may have written down which one it is.
func (t *teardown) killPause(rec *podRecord) error {
	if rec.BootID != t.bootID {
		return nil // pid and start time of another boot may be anyone's
	}
	fact := shimapi.Record{PID: rec.PausePID, StartTime: rec.PauseStart}
	if fact.PID == 0 {
		err := atomicfile.Read(t.paths.podFile(rec.ID, shimapi.RecordName), &fact)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return killPID(fact.PID, fact.StartTime)
}

// erasePod: containers → shim's memory of the pod → directory, record last. Whoever saw the
// pod is told.
func (t *teardown) erasePod(ctx context.Context, s *Sandbox) error {
	if s.rec.get().Intent != record.Making {
		t.intend(ctx, s, record.Removing)
	}
	var errs []error
	for _, c := range t.index.containersOf(s) {
		errs = append(errs, t.eraseContainer(ctx, c))
	}
	t.tell.podRemoved(ctx, s)
	if shim, err := s.shimIn(t.shims); err == nil {
		if err := shim.RemovePod(ctx, s.id); err != nil && !errors.Is(err, shims.ErrGone) {
			errs = append(errs, fmt.Errorf("forget the pod in its shim: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := eraseDir(ctx, t.paths.podDir(s.id), record.PodFile); err != nil {
		return fmt.Errorf("remove pod directory: %w", err)
	}
	if t.index.forgetPod(s.id) && s.status.Load() != nil {
		t.events.publish(podEvent(s, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT))
	}
	return nil
}

// markStopped commits that a pod has been released.
func (t *teardown) markStopped(ctx context.Context, s *Sandbox) {
	t.intend(ctx, s, record.Stopped)
	t.events.publish(podEvent(s, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT))
}

// intend commits how far a pod is on its way out. A full disk must not keep it
// from going: without the record the next daemon begins anew, which is harmless.
func (t *teardown) intend(ctx context.Context, s *Sandbox, i record.Intent) {
	if err := s.change(ifPossible, func(rec *podRecord) { rec.Intent = i }); err != nil {
		klog.FromContext(ctx).Error(err, "A pod record could not be written", "pod", s.id, "intent", i)
	}
}

// destroyContainer is destroyPod's counterpart for one container; c.slot is
// held, or nobody else knows the container.
func (t *teardown) destroyContainer(ctx context.Context, c *Container) error {
	if err := t.releaseContainer(ctx, c); err != nil {
		return err
	}
	if c.rec.get().Intent != record.Making {
		if err := c.change(ifPossible, func(rec *containerRecord) { rec.Intent = record.Removing }); err != nil {
			klog.FromContext(ctx).Error(err, "Removal of a container is not recorded", "container", c.id)
		}
	}
	return t.eraseContainer(ctx, c)
}

// releaseContainer: processes, shim state and cgroup → image volumes → rootfs.
func (t *teardown) releaseContainer(ctx context.Context, c *Container) error {
	ended := t.releaseProcess(ctx, c)
	errs := []error{ended, t.unmountVolumes(c.id), t.images.Unmount(t.paths.rootfsPath(c.id))}
	if ended == nil { // else the next try needs it: a foreign runtime ends a container by its bundle
		errs = append(errs, removeShell(t.paths.containerStateDir(c.id)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("release container %s: %w", c.id, err)
	}
	return nil
}

// unmountVolumes finds a container's image volumes by their place: the record
// may not tell of the last one, or not be readable.
func (t *teardown) unmountVolumes(id string) error {
	entries, err := os.ReadDir(t.paths.imageVolumesDir(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, t.images.Unmount(filepath.Join(t.paths.imageVolumesDir(id), e.Name())))
	}
	return errors.Join(errs...)
}

func (t *teardown) releaseProcess(ctx context.Context, c *Container) error {
	shim, err := c.pod.shimIn(t.shims)
	if err == nil {
		err = shim.Delete(ctx, c.id)
	}
	// What was never whole, no replacement of its shim will know.
	unknown := errors.Is(err, shims.ErrDelayed) && c.rec.get().Intent == record.Making
	if errors.Is(err, shims.ErrGone) || unknown {
		return t.killOrphan(c)
	}
	if err != nil {
		return asDomain(err)
	}
	return t.lastWord(ctx, c)
}

// wordPatience is how long the event of an end may be on its way that a shim has reported.
const wordPatience = 5 * time.Second

// lastWord learns how a container ended that its shim has forgotten, as it was told to. The end
// was reported before; the record tells of it as well, but not when the disk had no room for
// it. A container that was never created has no end.
func (t *teardown) lastWord(ctx context.Context, c *Container) error {
	if err := t.refreshFact(c); err != nil {
		return err
	}
	if c.rec.get().Intent == record.Ready && c.wasCreated() {
		timer := time.NewTimer(wordPatience)
		defer timer.Stop()
		select {
		case <-c.done:
		case <-timer.C:
		case <-ctx.Done():
			return fmt.Errorf("end of container %s: %w", c.id, context.Cause(ctx))
		}
	}
	t.recordLoss(c)
	return nil
}

// killOrphan ends what is left of a container whose shim is gone, by its
// cgroup, where pids can't be mistaken for another's. The cgroup goes with it.
func (t *teardown) killOrphan(c *Container) error {
	paths, err := t.cgroupsOf(c)
	if err != nil {
		return fmt.Errorf("end container %s without its shim: %w", c.id, err)
	}
	if err := t.refreshFact(c); err != nil { // it may have ended before its shim
		return err
	}
	if err := t.reclaimContainer(c); err != nil {
		return fmt.Errorf("end container %s without its shim: %w", c.id, err)
	}
	if err := killCgroup(paths); err != nil {
		return fmt.Errorf("end container %s without its shim: %w", c.id, err)
	}
	if err := t.refreshFact(c); err != nil {
		return err
	}
	t.recordLoss(c)
	return removeEmptied(paths)
}

// cgroupsOf are the cgroups of a container by controller.
func (t *teardown) cgroupsOf(c *Container) (map[string]string, error) {
	c.mu.Lock()
	paths := c.fact.CgroupPaths
	c.mu.Unlock()
	if len(paths) == 0 { // its creation was cut off before the shim had written them down
		return containerCgroups(t.host, c.pod.rec.get(), c.id)
	}
	return paths, nil
}

// recordLoss notes, in memory and in the record, that a container's process is gone
// without a recorded exit. Without the record the next daemon would find it lost at
// another time, which the kubelet would take for another end.
func (t *teardown) recordLoss(c *Container) {
	at := time.Now()
	if !c.markLost(at) {
		return
	}
	if c.rec.get().Intent != record.Ready {
		return
	}
	if err := c.change(ifPossible, func(rec *containerRecord) { rec.LostAt = at }); err != nil {
		klog.Background().Error(err, "The loss of a container is not recorded", "container", c.id)
	}
}

// refreshFact reads the shim's record of a container, for when no event of the shim will
// come, or not in time.
//
// A record that could not be read for want of descriptors or memory is the error: it may tell
// of an end that must not be called lost. Any other is as good as none.
func (t *teardown) refreshFact(c *Container) error {
	var r shimapi.Record
	err := atomicfile.Read(t.paths.containerFile(c.pod.id, c.id, shimapi.RecordName), &r)
	if failure.IsShortage(err) {
		return fmt.Errorf("record of container %s: %w", c.id, err)
	}
	if err == nil {
		c.learn(r)
	}
	return nil
}

// refusal is asDomain of what a shim answered about a container. When it refuses because the
// container has ended, the status says so from here on, too: the event of the end may still be
// on its way.
func (t *teardown) refusal(c *Container, err error) error {
	if isKind(err, shimapi.KindNotRunning) {
		err = errors.Join(err, t.refreshFact(c))
	}
	return asDomain(err)
}

// eraseContainer: measuring → hold on the layers → directory, record last. Whoever saw the
// container is told at once: when more fails, another try finds it no more.
func (t *teardown) eraseContainer(ctx context.Context, c *Container) error {
	t.tell.removed(ctx, c)
	c.layer.stop()
	t.images.Release(c.id)
	if err := eraseDir(ctx, t.paths.containerDir(c.pod.id, c.id), record.ContainerFile); err != nil {
		return fmt.Errorf("remove directory of container %s: %w", c.id, err)
	}
	if t.index.forgetContainer(c.id) && c.status.Load() != nil {
		t.events.publish(containerEvent(c, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT))
	}
	return nil
}

// eraseDir removes a directory so that its record is the last file to go: what
// an interrupted removal leaves can always be found and removed again. It never
// deletes through a mount: that is an error.
func eraseDir(ctx context.Context, dir, record string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == record {
			continue
		}
		if err := dirtree.Remove(ctx, filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return dirtree.Remove(ctx, dir)
}

// removeShell removes a tree of mount points: directories and empty files. It
// tries rmdir before it looks inside, so that it never deletes through a mount
// that could not be undone: the kernel answers EBUSY there.
func removeShell(path string) error {
	err := unix.Rmdir(path)
	switch {
	case err == nil || errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOTDIR):
		err = unix.Unlink(path)
	case errors.Is(err, unix.ENOTEMPTY):
		entries, rerr := os.ReadDir(path)
		if rerr != nil && !errors.Is(rerr, fs.ErrNotExist) { // a stop of the pod may remove it, too
			return rerr
		}
		for _, e := range entries {
			if err := removeShell(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
		err = unix.Rmdir(path)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}
