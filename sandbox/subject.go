package sandbox

import (
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
)

// Subject is a pod sandbox or a container as one who watches cgroups wants to know it.
// Unlike a status it is there before the pod or the container is whole, since its cgroup
// is made before that.
type Subject struct {
	ID        string
	PodID     string            // of the pod of a container; ID itself of a sandbox
	Labels    map[string]string // of its configuration, not to be changed
	Image     *runtimeapi.ImageSpec
	ImageID   string // "" of a sandbox
	CreatedAt time.Time
	// CgroupsPath is what a runtime-spec would name: parent/ID, or slice:berth:ID.
	CgroupsPath string
	PID         int // of the first process; 0 before it is there
	State       runtimeapi.ContainerState
	ExitCode    int32     // these are of what has ended
	FinishedAt  time.Time // zero of a sandbox
}

// IsSandbox tells a pod sandbox from a container.
func (s *Subject) IsSandbox() bool { return s.ID == s.PodID }

// subjects finds pods and containers for those who watch cgroups.
type subjects struct {
	index *index
	host  oci.Host
}

// Subject finds a pod sandbox or a container by its full ID, half-made ones too. It waits
// for nothing. The error wraps [ErrNotFound].
func (v *subjects) Subject(id string) (*Subject, error) {
	if s := v.index.podByID(id); s != nil {
		return v.ofPod(s), nil
	}
	if c := v.index.containerByID(id); c != nil {
		return v.ofContainer(c), nil
	}
	return nil, fmt.Errorf("container %q: %w", id, ErrNotFound)
}

func (v *subjects) ofPod(s *Sandbox) *Subject {
	rec := s.rec.get()
	out := &Subject{
		ID: s.id, PodID: s.id, Labels: rec.config.GetLabels(), CreatedAt: rec.CreatedAt,
		CgroupsPath: v.cgroupsPath(rec, s.id), PID: rec.PausePID, State: runtimeapi.ContainerState_CONTAINER_RUNNING,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended { // its number may be another process's by now
		out.State, out.PID = runtimeapi.ContainerState_CONTAINER_EXITED, 0
	}
	return out
}

func (v *subjects) ofContainer(c *Container) *Subject {
	rec := c.rec.get()
	out := &Subject{
		ID: c.id, PodID: c.pod.id, Labels: rec.config.GetLabels(), Image: rec.config.GetImage(), ImageID: rec.ImageID,
		CreatedAt: rec.CreatedAt, CgroupsPath: v.cgroupsPath(c.pod.rec.get(), c.id),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	out.PID, out.State = c.fact.PID, containerState(c.fact)
	if out.State == runtimeapi.ContainerState_CONTAINER_EXITED {
		out.PID = 0 // its number may be another process's by now
		out.ExitCode, _, _ = containerEnd(c.fact)
		if out.FinishedAt = c.fact.FinishedAt; out.FinishedAt.IsZero() {
			out.FinishedAt = c.fact.lostAt
		}
	}
	return out
}

// cgroupsPath is where a cgroup of a pod is; "" when its configuration names none that can
// be, which is refused before anything is made.
func (v *subjects) cgroupsPath(pod *podRecord, id string) string {
	path, err := oci.CgroupsPath(cgroupParent(v.host, pod), id, v.host)
	if err != nil {
		return ""
	}
	return path
}
