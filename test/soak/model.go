package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	created = runtimeapi.ContainerState_CONTAINER_CREATED
	running = runtimeapi.ContainerState_CONTAINER_RUNNING
	exited  = runtimeapi.ContainerState_CONTAINER_EXITED
	gone    = runtimeapi.ContainerState(-1) // there is no such container
)

const (
	killedCode = 137 // of what SIGKILL ended
	termCode   = 143 // of what SIGTERM ended
	lostCode   = 255
	lostReason = "ContainerStatusUnknown"
)

// fate is what a container is, as far as the model tells states apart.
type fate struct {
	state runtimeapi.ContainerState
	code  int32
	lost  bool
}

func (f fate) String() string {
	switch {
	case f.state == gone:
		return "gone"
	case f.lost:
		return "lost"
	case f.state == exited:
		return fmt.Sprintf("exited with %d", f.code)
	}
	return strings.ToLower(strings.TrimPrefix(f.state.String(), "CONTAINER_"))
}

// fateOf reads a status; nil is a container that is not there.
func fateOf(st *runtimeapi.ContainerStatus) fate {
	if st == nil {
		return fate{state: gone}
	}
	f := fate{state: st.GetState()}
	if f.state == exited {
		f.code = st.GetExitCode()
		f.lost = f.code == lostCode && st.GetReason() == lostReason
	}
	return f
}

// container is what a client knows of one of its containers.
type container struct {
	id, name string
	pod      *pod
	code     int32   // with which its program ends, by itself or when asked to by SIGTERM
	brief    bool    // its program ends by itself at once
	may      []fate  // what it is: several, while an answer is missing
	ends     []int32 // with which it may have ended, if it is running or created
	mayGo    bool    // it may have been removed
	trapped  bool    // its program is known to handle SIGTERM
	bothDead uint64  // of the phase, when it was created
	finished int64   // when it ended; 0: not known to have
	shares   []int64 // CPU shares that it may have; none: never changed
	log      []string
	logOff   bool // a line may be there or not: the log is not judged any more
	story    []string
}

// note adds to the container's story.
func (c *container) note(format string, args ...any) {
	c.story = append(c.story, time.Now().Format(clock)+" "+fmt.Sprintf(format, args...))
	const longest = 60
	if len(c.story) > longest {
		c.story = slices.Delete(c.story, 1, len(c.story)-longest+1)
	}
}

func (c *container) tell() string {
	return fmt.Sprintf("    container %s (%s) of pod %s, ends with %d, brief %v:\n      %s",
		c.id, c.name, c.pod.id, c.code, c.brief, strings.Join(c.story, "\n      "))
}

// can tells whether the container may be in a state.
func (c *container) can(s runtimeapi.ContainerState) bool {
	return slices.ContainsFunc(c.may, func(f fate) bool { return f.state == s })
}

// is tells whether it is known to be in a state, unless it ended meanwhile.
func (c *container) is(s runtimeapi.ContainerState) bool {
	return len(c.may) == 1 && c.may[0].state == s
}

// began is a call that may end the container with one of the codes from now on.
func (c *container) began(codes ...int32) {
	for _, code := range codes {
		if !slices.Contains(c.ends, code) {
			c.ends = append(c.ends, code)
		}
	}
}

// allows tells whether what is seen may be; lost says that berthd and a shim were dead at
// the same time since it was created.
func (c *container) allows(f fate, lost bool) bool {
	live := c.can(running) || c.can(created)
	switch {
	case slices.Contains(c.may, f):
		return true
	case f.state == gone:
		return c.mayGo
	case f.lost:
		return live && lost
	case f.state == exited:
		return live && slices.Contains(c.ends, f.code)
	}
	return false
}

// see takes in what was seen, and returns why it must not be, or "".
func (c *container) see(st *runtimeapi.ContainerStatus, lost bool) string {
	f := fateOf(st)
	was := c.may
	ok := c.allows(f, lost)
	c.may = []fate{f}
	if f.state != exited {
		if !ok {
			return fmt.Sprintf("it is %v, must be one of %v (codes %v)", f, was, c.ends)
		}
		return ""
	}
	at := c.finished
	c.finished = st.GetFinishedAt()
	switch {
	case !ok:
		return fmt.Sprintf("it is %v (%s), must be one of %v (codes %v, lost %v)", f, st.GetReason(), was, c.ends, lost)
	case at != 0 && at != c.finished:
		return fmt.Sprintf("it ended at %d, was told to have ended at %d", c.finished, at)
	case st.GetFinishedAt() == 0 || st.GetFinishedAt() < st.GetCreatedAt():
		return fmt.Sprintf("it was created at %d and ended at %d", st.GetCreatedAt(), st.GetFinishedAt())
	}
	return ""
}

// pod is what a client knows of one of its pods.
type pod struct {
	id, name   string
	config     *runtimeapi.PodSandboxConfig
	containers []*container
	made       int // containers, also those gone
	// What it may be. A pod whose removal was cut short is only removed again.
	ready, stopped, mayGo bool
	bothDead              uint64
	story                 []string
}

func (p *pod) note(format string, args ...any) {
	p.story = append(p.story, time.Now().Format(clock)+" "+fmt.Sprintf(format, args...))
}

func (p *pod) tell() string {
	return fmt.Sprintf("    pod %s (%s):\n      %s", p.id, p.name, strings.Join(p.story, "\n      "))
}

// hasRoom tells whether another container can be created in it.
func (p *pod) hasRoom() bool {
	const most = 4
	return p.ready && !p.stopped && len(p.containers) < most
}

// forget drops a container that is gone.
func (p *pod) forget(c *container) {
	p.containers = slices.DeleteFunc(p.containers, func(d *container) bool { return d == c })
}

// see takes in a pod's state, and returns why it must not be, or "".
func (p *pod) see(st *runtimeapi.PodSandboxStatus, lost bool) string {
	if st == nil {
		if !p.mayGo {
			return "it is not there"
		}
		return ""
	}
	ready := st.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY
	if ready && !p.ready || !ready && !p.stopped && !lost {
		return fmt.Sprintf("it is %v, may be ready %v, stopped %v", st.GetState(), p.ready, p.stopped)
	}
	p.ready, p.stopped = ready, !ready
	return ""
}
