package sandbox

import (
	"context"
	"sync/atomic"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/sandbox/record"
)

// told is how far plugins have been told of a pod or container. It only grows, so that no
// step is told twice, whichever of overlapping calls comes first.
type told int32

const (
	toldNothing told = iota
	toldMade         // RunPodSandbox, CreateContainer
	toldStarted      // StartContainer
	toldStopped      // StopPodSandbox, StopContainer
	toldRemoved      // RemovePodSandbox, RemoveContainer
)

// stepTold is how far plugins have been told of something, and the right to tell more.
type stepTold struct {
	turn slot // held while plugins are told, and from one step to the next when none may come between
	far  atomic.Int32
}

func (s *stepTold) is() told { return told(s.far.Load()) }

// reach notes that a step is being told, with turn held. It reports false when that, or a
// later step, was told before.
func (s *stepTold) reach(t told) bool {
	if s.is() >= t {
		return false
	}
	s.far.Store(int32(t))
	return true
}

// teller tells plugins what becomes of pods and containers: each step once and in the
// order of life, also when calls overlap or are repeated, and when a container ends by
// itself. What was never told to be made is not told to end. That a stop was told is in the
// record: a later daemon does not tell it again.
type teller struct{ plugins Plugins }

// notice describes a container, whole or not, at a step.
func notice(c *Container, step ContainerStep) ContainerNotice {
	return ContainerNotice{Step: step, Pod: c.pod.snapshot(), Container: c.snapshot()}
}

// tellOnly is for steps that plugins can't refuse.
func (t teller) tellOnly(ctx context.Context, c *Container, step ContainerStep) (heard bool) {
	heard, err := t.plugins.Container(ctx, notice(c, step))
	if err != nil {
		klog.FromContext(ctx).Error(err, "A plugin failed at a step that it can't refuse", "step", step, "container", c.id, "pod", c.pod.id)
	}
	return heard
}

// inTurn takes the turn and has plugins that connect wait, in this order: whoever tells of
// an end has the turn when it has to wait for such a plugin.
func (t teller) inTurn(ctx context.Context, s *stepTold) (done func(), err error) {
	if err := s.turn.take(ctx); err != nil {
		return nil, err
	}
	release := t.plugins.Hold()
	return func() {
		release()
		s.turn.free()
	}, nil
}

// podMade tells of a pod, which ready then makes ready. An error refuses it.
func (t teller) podMade(ctx context.Context, s *Sandbox, ready func() error) error {
	done, err := t.inTurn(ctx, &s.told)
	if err != nil {
		return err
	}
	defer done()
	s.told.reach(toldMade)
	if err := t.plugins.Pod(ctx, PodNotice{Step: PodRun, Pod: s.snapshot()}); err != nil {
		return err
	}
	return ready()
}

// podUpdated tells that a pod has got other resources.
func (t teller) podUpdated(ctx context.Context, s *Sandbox) {
	if err := t.plugins.Pod(ctx, PodNotice{Step: PodPostUpdate, Pod: s.snapshot()}); err != nil {
		klog.FromContext(ctx).Error(err, "A plugin failed at a step that it can't refuse", "step", PodPostUpdate, "pod", s.id)
	}
}

// podStopped tells, once, that no container of a pod is left running.
func (t teller) podStopped(ctx context.Context, s *Sandbox) {
	if s.told.turn.take(ctx) != nil {
		return // who gave up comes again
	}
	defer s.told.turn.free()
	t.podEnd(ctx, s, PodStop, toldStopped)
}

// podRemoved tells, once, that a pod is about to be erased.
func (t teller) podRemoved(ctx context.Context, s *Sandbox) {
	if s.told.turn.take(ctx) != nil {
		return
	}
	defer s.told.turn.free()
	t.podEnd(ctx, s, PodStop, toldStopped)
	t.podEnd(ctx, s, PodRemove, toldRemoved)
}

func (t teller) podEnd(ctx context.Context, s *Sandbox, step PodStep, far told) {
	if s.told.is() == toldNothing || !s.told.reach(far) {
		return
	}
	release := t.plugins.Hold()
	defer release()
	if err := t.plugins.Pod(ctx, PodNotice{Step: step, Pod: s.snapshot()}); err != nil {
		klog.FromContext(ctx).Error(err, "A plugin failed at a step that it can't refuse", "step", step, "pod", s.id)
	}
}

// created has plugins change the spec of a container that is about to be created. An error
// refuses it. The container's turn is held.
func (t teller) created(ctx context.Context, c *Container, spec *specs.Spec) error {
	c.told.reach(toldMade)
	return t.plugins.Adjust(ctx, notice(c, ""), spec)
}

// started tells that a container is about to be started. An error refuses it. The
// container's turn is held.
func (t teller) started(ctx context.Context, c *Container) error {
	c.told.reach(toldStarted)
	_, err := t.plugins.Container(ctx, notice(c, ContainerStart))
	return err
}

// stopped tells, once, that a container has ended. It returns when that was told, also
// by another call.
func (t teller) stopped(ctx context.Context, c *Container) {
	if c.told.is() >= toldStopped && len(c.told.turn) == 0 || c.told.turn.take(ctx) != nil {
		return
	}
	defer c.told.turn.free()
	t.stoppedInTurn(ctx, c)
}

func (t teller) stoppedInTurn(ctx context.Context, c *Container) {
	if c.told.is() == toldNothing || !c.told.reach(toldStopped) {
		return
	}
	release := t.plugins.Hold()
	defer release()
	if !t.tellOnly(ctx, c, ContainerStop) || c.rec.get().Intent != record.Ready {
		return // nobody heard it; or the container goes at once, or its record was never whole
	}
	if err := c.change(ifPossible, func(rec *containerRecord) { rec.StopTold = true }); err != nil {
		klog.FromContext(ctx).Error(err, "It is not recorded that plugins know of the end of a container", "container", c.id)
	}
}

// removed tells, once, that a container is about to be erased.
func (t teller) removed(ctx context.Context, c *Container) {
	if c.told.turn.take(ctx) != nil {
		return
	}
	defer c.told.turn.free()
	t.stoppedInTurn(ctx, c)
	if c.told.is() == toldNothing || !c.told.reach(toldRemoved) {
		return
	}
	release := t.plugins.Hold()
	defer release()
	t.tellOnly(ctx, c, ContainerRemove)
}

// endTime bounds how long plugins are waited for when a container ends by itself.
const endTime = time.Minute

// whenEnded is called when a container has ended, with its lock held.
func (t teller) whenEnded(c *Container) {
	go func() { // ends when plugins were told, which is bounded
		ctx, cancel := context.WithTimeout(context.Background(), endTime)
		defer cancel()
		t.stopped(ctx, c)
	}()
}

// adopt notes what earlier daemons have told plugins of a container that was found on
// disk. Plugins that connect later learn of it by the list of what runs.
func (t teller) adopt(c *Container) {
	rec := c.rec.get()
	switch {
	case rec.Intent != record.Ready:
		return // what was cut short is not told of
	case rec.StopTold:
		c.told.reach(toldStopped)
	default:
		c.told.reach(toldStarted)
	}
}

// adoptPod is adopt for a pod.
func (t teller) adoptPod(s *Sandbox) {
	switch s.rec.get().Intent {
	case record.Ready, record.Stopping:
		s.told.reach(toldMade)
	case record.Stopped:
		s.told.reach(toldStopped)
	}
}

// Known is what a plugin that connects has to know: the pods that are not removed, and the
// containers that have not ended.
func (ix *index) Known() ([]*PodStatus, []*ContainerStatus) {
	var pods []*PodStatus
	for _, s := range ix.allPods() {
		if far := s.told.is(); far >= toldMade && far < toldRemoved {
			pods = append(pods, s.snapshot())
		}
	}
	var containers []*ContainerStatus
	for _, c := range ix.allContainers() {
		far, st := c.told.is(), c.snapshot()
		if far >= toldMade && far < toldStopped && st.State != runtimeapi.ContainerState_CONTAINER_EXITED {
			containers = append(containers, st)
		}
	}
	return pods, containers
}
