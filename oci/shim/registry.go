package shim

import (
	"os"
	"regexp"
	"strconv"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/procfs"
	"berth/oci/shimapi"
)

// registry has the pods and containers of the shim by ID. Both are under one lock, because
// the shim exits only when it has none of either.
type registry struct {
	mu         sync.Mutex
	leaving    bool // an exit was granted: nothing is added any more
	pods       map[string]*pod
	containers map[string]*container
}

func newRegistry() *registry {
	return &registry{pods: map[string]*pod{}, containers: map[string]*container{}}
}

// claim adds a pod or container to its map before it is made, so that no other can have the
// ID and the shim does not exit meanwhile.
func claim[T any](reg *registry, m map[string]T, id string, v T) error {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if reg.leaving {
		return errLeaving()
	}
	if _, taken := m[id]; taken {
		return fault(shimapi.KindExists, "%s is held already", id)
	}
	m[id] = v
	return nil
}

func drop[T any](reg *registry, m map[string]T, id string) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	delete(m, id)
}

func held[T any](reg *registry, m map[string]T, id string) (T, bool) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	v, ok := m[id]
	return v, ok
}

func errLeaving() error { return fault(shimapi.KindNotRunning, "the shim is leaving") }

// leave grants the shim's exit once, if there are no pods and containers.
func (reg *registry) leave() error {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if len(reg.pods)+len(reg.containers) > 0 {
		return fault(shimapi.KindExists, "the shim holds %d pods and %d containers", len(reg.pods), len(reg.containers))
	}
	if reg.leaving {
		return errLeaving()
	}
	reg.leaving = true
	return nil
}

func (reg *registry) pod(id string) (*pod, bool) { return held(reg, reg.pods, id) }

// container finds a container that was created, and waits for the end of its creation.
func (reg *registry) container(id string) (*container, error) {
	ctr, ok := held(reg, reg.containers, id)
	if ok {
		<-ctr.ready
	}
	if !ok || ctr.failed {
		return nil, fault(shimapi.KindNotFound, "this shim holds no container %s", id)
	}
	return ctr, nil
}

// running finds a container that has not ended.
func (reg *registry) running(id string) (*container, error) {
	ctr, err := reg.container(id)
	if err != nil {
		return nil, err
	}
	if ctr.status() == shimapi.StatusStopped {
		return nil, fault(shimapi.KindNotRunning, "container %s has ended", id)
	}
	return ctr, nil
}

// noteOOM takes in that a foreign shim has seen the OOM killer in a container whose cgroup is
// not known here.
func (reg *registry) noteOOM(id string) {
	if ctr, ok := held(reg, reg.containers, id); ok && ctr.isMade() && len(ctr.groups) == 0 {
		ctr.ooms.noteReported()
		ctr.countOOMs()
	}
}

// tracersOf returns the running tracers of a pod.
func (reg *registry) tracersOf(pod string) []*container {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	var all []*container
	for _, ctr := range reg.containers {
		if ctr.pod == pod && ctr.isMade() && ctr.isTracer() && ctr.status() == shimapi.StatusRunning {
			all = append(all, ctr)
		}
	}
	return all
}

// namespaceOf is compiled when first needed, as [reasons] is.
var namespaceOf = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^/proc/([0-9]+)/ns/`) })

// joined returns the processes behind the /proc/PID/ns paths of a spec. A PID can be reused
// between this check and the join, so each process must belong to the pod now and be alive
// after the join, see stillLive.
func (reg *registry) joined(pod string, namespaces []specs.LinuxNamespace) ([]process, error) {
	var all []process
	for _, ns := range namespaces {
		match := namespaceOf().FindStringSubmatch(ns.Path)
		if match == nil {
			continue // a new namespace, or one that a bind mount keeps
		}
		pid, err := strconv.Atoi(match[1])
		p := reg.processOf(pod, pid)
		if err != nil || p == nil {
			return nil, fault(shimapi.KindNotRunning, "process %s, whose %s namespace the container is to join, is none of pod %s", match[1], ns.Type, pod)
		}
		all = append(all, p)
	}
	return all, nil
}

// processOf finds the pause process, or the first process of a container, of a pod by PID;
// nil: the pod has none with this PID.
func (reg *registry) processOf(pod string, pid int) process {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if p, ok := reg.pods[pod]; ok && p.isMade() && p.pid == pid {
		return p.process
	}
	for _, ctr := range reg.containers {
		if ctr.pod == pod && ctr.isMade() && ctr.pid == pid {
			return ctr.process
		}
	}
	return nil
}

// stillLive returns an error for a container that may have joined the namespaces of another
// process, because one that it was to join has ended.
func stillLive(all []process) error {
	for _, p := range all {
		if !p.alive() {
			return fault(shimapi.KindNotRunning, "a process whose namespaces the container joins has ended")
		}
	}
	return nil
}

// pidfdLives reports whether the process has not ended. A closed pidfd gives false: it is
// closed after the end.
func pidfdLives(f *os.File) bool {
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	lives := false
	err = raw.Control(func(fd uintptr) { lives = !procfs.HasEnded(int(fd)) })
	return err == nil && lives
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
