package sandbox

import (
	"cmp"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/shimapi"
	"berth/sandbox/record"
)

// Reasons a container's status gives for its end, beside those of package shimapi.
const (
	reasonCompleted = "Completed"
	reasonError     = "Error"
	reasonOOMKilled = "OOMKilled"
)

// containerFact is what is known of a container's process: the shim's record,
// and whether that record can still be trusted.
type containerFact struct {
	shimapi.Record
	// lost: the process is gone, or out of reach, and no exit was recorded
	// (another boot, a dead shim).
	lost   bool
	lostAt time.Time
}

// containerState derives a container's state from intent and fact.
func containerState(f containerFact) runtimeapi.ContainerState {
	switch {
	case f.Status == shimapi.StatusStopped || f.lost:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	case f.Status == shimapi.StatusRunning:
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	case f.Status == shimapi.StatusCreated:
		return runtimeapi.ContainerState_CONTAINER_CREATED
	default:
		return runtimeapi.ContainerState_CONTAINER_UNKNOWN
	}
}

// containerEnd derives exit code, reason and message of an ended container.
func containerEnd(f containerFact) (code int32, reason, message string) {
	switch {
	case f.Status != shimapi.StatusStopped && f.lost:
		return shimapi.CodeUnknown, shimapi.ReasonUnknown, "the exit status was lost: the node restarted or the shim ended before the container did"
	case f.Reason != "":
		return int32(f.ExitCode), f.Reason, f.Message
	case f.OOMKilled:
		return int32(f.ExitCode), reasonOOMKilled, f.Message
	case f.ExitCode == 0:
		return 0, reasonCompleted, f.Message
	default:
		return int32(f.ExitCode), reasonError, f.Message
	}
}

// podState derives a sandbox's state: it is ready while its pause process lives
// and nobody asked it to stop.
func podState(i record.Intent, ended, stopping bool) runtimeapi.PodSandboxState {
	if i == record.Ready && !ended && !stopping {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

// rank orders the statuses that a shim reports, so that a report that arrives late never
// takes a container back to an earlier one.
func rank(s shimapi.Status) int {
	switch s {
	case shimapi.StatusCreated:
		return 1
	case shimapi.StatusRunning:
		return 2
	case shimapi.StatusStopped:
		return 3
	default:
		return 0
	}
}

// learn takes in what the shim reports: it publishes the new status and, when the
// container has ended, closes done. It reports whether the status changed.
func (c *Container) learn(r shimapi.Record) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rank(r.Status) < rank(c.fact.Status) {
		return false
	}
	changed := r.Status != c.fact.Status
	c.fact.Record = r
	c.publishLocked()
	return changed
}

// wasCreated tells whether a shim has ever told of the container.
func (c *Container) wasCreated() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fact.Status != ""
}

// endIsRecorded tells whether a shim has told of the end, and knew it.
func (c *Container) endIsRecorded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fact.EndIsTold()
}

// markLost notes in memory that the process is gone and its exit was never recorded. It
// reports false when the end was known already.
func (c *Container) markLost(at time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fact.lost || c.fact.Status == shimapi.StatusStopped {
		return false
	}
	c.fact.lost, c.fact.lostAt = true, at
	c.publishLocked()
	return true
}

// change changes the record and publishes what it says now.
func (c *Container) change(how persistence, edit func(*containerRecord)) error {
	err := c.rec.change(how, edit)
	c.publish()
	return err
}

func (c *Container) publish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.publishLocked()
}

// publishLocked replaces the status that readers see and publishes events of what
// changed. c.mu is held.
func (c *Container) publishLocked() {
	st := c.snapshotLocked()
	if c.rec.get().Intent == record.Ready {
		c.status.Store(st)
		c.publishEventsLocked(st)
	}
	if st.State == runtimeapi.ContainerState_CONTAINER_EXITED && !c.ended {
		c.ended = true
		close(c.done)
		go c.open.close() // it waits for reads, each of which is short
		if c.whenEnded != nil {
			c.whenEnded(c)
		}
	}
}

// lifeEvents are the events of a container. Each is published once and in this order,
// whether the daemon learns of the change by an event of the shim, by the answer to a
// call or from the shim's record.
var lifeEvents = []runtimeapi.ContainerEventType{
	runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT,
	runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT,
	runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT,
}

func (c *Container) publishEventsLocked(st *ContainerStatus) {
	happened := []bool{true, !st.StartedAt.IsZero(), st.State == runtimeapi.ContainerState_CONTAINER_EXITED}
	for i, event := range lifeEvents {
		if !happened[i] || i < c.published {
			continue
		}
		c.published = i + 1
		if c.publishEvent != nil {
			c.publishEvent(containerEvent(c, event))
		}
	}
}

// startEvents publishes changes from now on; those that are already known are not
// published.
func (c *Container) startEvents(tell func(Event)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.publishEvent = tell
}

// startEndNotice has whenEnded called when the container ends. One that has ended already
// is left alone.
func (c *Container) startEndNotice(whenEnded func(*Container)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.whenEnded = whenEnded
}

// snapshot is the container's status now, visible or not.
func (c *Container) snapshot() *ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.snapshotLocked()
}

func (c *Container) snapshotLocked() *ContainerStatus {
	rec := c.rec.get()
	st := &ContainerStatus{
		ID: c.id, PodID: c.pod.id, Config: rec.config,
		State:     containerState(c.fact),
		CreatedAt: rec.CreatedAt, StartedAt: c.fact.StartedAt,
		ImageID: rec.ImageID, ImageRef: cmp.Or(rec.ImageRef, rec.ImageID), LogPath: rec.LogPath,
		Cgroups: c.fact.CgroupPaths, Spec: rec.Spec,
	}
	rec.describe(st)
	if st.State == runtimeapi.ContainerState_CONTAINER_EXITED {
		st.ExitCode, st.Reason, st.Message = containerEnd(c.fact)
		st.FinishedAt = c.fact.FinishedAt
		if st.FinishedAt.IsZero() {
			st.FinishedAt = c.fact.lostAt
		}
		return st
	}
	st.PID = c.fact.PID
	return st
}

// state is the container's state now, visible or not.
func (c *Container) state() runtimeapi.ContainerState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return containerState(c.fact)
}

// state is the sandbox's state now, visible or not.
func (s *Sandbox) state() runtimeapi.PodSandboxState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return podState(s.rec.get().Intent, s.ended, s.stopping)
}

// end records that the pause process is gone.
func (s *Sandbox) end() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.ended = true
	close(s.done)
	go s.open.close() // it waits for reads, each of which is short
	s.publishLocked()
	return true
}

// beginStop closes the sandbox for new containers.
func (s *Sandbox) beginStop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	if s.giveUp != nil {
		s.giveUp(failed(ErrState, "the pod sandbox is being stopped"))
	}
	s.publishLocked()
}

func (s *Sandbox) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// change changes the record and publishes what it says now.
func (s *Sandbox) change(how persistence, edit func(*podRecord)) error {
	err := s.rec.change(how, edit)
	s.publish()
	return err
}

func (s *Sandbox) publish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.publishLocked()
}

// show lists a half-made sandbox as not ready, so that a client removes what could not
// be destroyed. Its record on disk still says that it is half-made.
func (s *Sandbox) show() {
	s.beginStop()
	_ = s.change(inMemory, func(rec *podRecord) { // which can't fail
		if rec.Intent == record.Making {
			rec.Intent = record.Ready
		}
	})
}

func (s *Sandbox) publishLocked() {
	if s.rec.get().Intent != record.Making {
		s.status.Store(s.snapshotLocked())
	}
}

// snapshot is the sandbox's status now, visible or not.
func (s *Sandbox) snapshot() *PodStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshotLocked()
}

func (s *Sandbox) snapshotLocked() *PodStatus {
	rec := s.rec.get()
	st := &PodStatus{
		ID: s.id, Config: rec.config, Handler: rec.Handler,
		State:     podState(rec.Intent, s.ended, s.stopping),
		CreatedAt: rec.CreatedAt, ShimID: rec.ShimID, NetNS: rec.netns,
	}
	if rec.Network != nil && rec.Intent != record.Stopped && rec.Intent != record.Removing { // else another pod's by now
		st.IPs = rec.Network.IPs
	}
	if !s.ended {
		st.PID = rec.PausePID
	}
	return st
}
