package shim

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/shimapi"
)

// While a container is created, its first process has the host's mounts until it has its
// own. If it joins a PID namespace, the containers there see it in their /proc, and one with
// CAP_SYS_PTRACE may follow /proc/PID/root of any process it sees, also of one that is not
// dumpable (ptrace(2), "Ptrace access mode checking"). Such containers are called tracers
// here. They are frozen while another container of the pod is created, and none is started
// meanwhile. In a user namespace the capability does not extend to processes of the host.

// stillFor bounds how long a tracer is frozen for another container. A creation takes
// milliseconds, but may need a mount whose server never answers.
const stillFor = 10 * time.Second

// tracers freezes the tracers of one pod. The zero value is ready for use.
type tracers struct {
	// starting is locked by the start of a tracer, and read-locked by creations, which
	// the tracer must not see.
	starting sync.RWMutex

	mu     sync.Mutex
	makers int          // containers being created
	frozen []*container // thawed when the last of them is created
}

// isExposed reports whether other containers see the new one while it is created.
func isExposed(spec *specs.Spec) bool {
	pid := slices.IndexFunc(spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.PIDNamespace })
	return pid >= 0 && spec.Linux.Namespaces[pid].Path != ""
}

// isTracer reports whether the container's processes can have CAP_SYS_PTRACE over those of
// the host.
func (ctr *container) isTracer() bool { return ctr.tracer }

// mayTrace is isTracer of a container of a spec.
func mayTrace(spec *specs.Spec) bool {
	inUser := slices.ContainsFunc(spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.UserNamespace })
	caps := spec.Process.Capabilities
	return caps != nil && slices.Contains(caps.Bounding, tracing) && !inUser
}

// couldTrace is isTracer of a container as libcontainer keeps it.
func couldTrace(config configs.Config) bool {
	return config.Capabilities != nil && slices.Contains(config.Capabilities.Bounding, tracing) && !config.Namespaces.Contains(configs.NEWUSER)
}

// tracing is the capability that tracers have.
const tracing = "CAP_SYS_PTRACE"

// hide freezes the tracers that could see the creation of a container, until the caller
// calls reveal with the result of the creation. If that comes later than [stillFor], the
// processes of the container are killed and reveal returns an error.
func (cs *containers) hide(ctr *container, spec *specs.Spec) (reveal func(error) error, err error) {
	p, ok := cs.registry.pod(ctr.pod)
	if !ok || !isExposed(spec) {
		return func(err error) error { return err }, nil
	}
	p.tracers.starting.RLock()
	thaw, err := p.tracers.hold(func() []*container { return cs.registry.tracersOf(p.id) })
	if err != nil {
		p.tracers.starting.RUnlock()
		return nil, err
	}
	inTime := func() bool { return true }
	if p.tracers.any() {
		inTime = time.AfterFunc(stillFor, func() {
			if err := cs.state.removeNoted(ctr.id); err != nil {
				slog.Error("container that takes too long is not ended", "container", ctr.id, "error", err)
			}
		}).Stop
	}
	return func(err error) error {
		defer p.tracers.starting.RUnlock()
		defer thaw()
		if !inTime() {
			err = errors.Join(fault(shimapi.KindInternal,
				"it took over %v, for which containers of the pod that have CAP_SYS_PTRACE were frozen: give the pod's containers PID namespaces of their own, or none of them this capability", stillFor), err)
		}
		return err
	}, nil
}

func (t *tracers) any() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.frozen) > 0
}

// hold freezes the running tracers of the pod until every caller has called thaw. Tracers
// that are frozen already are left as they are.
func (t *tracers) hold(running func() []*container) (thaw func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.makers == 0 {
		if err := t.freeze(running()); err != nil {
			t.thaw()
			return nil, err
		}
	}
	t.makers++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.makers--; t.makers == 0 {
			t.thaw()
		}
	}, nil
}

// freeze is called with mu held.
func (t *tracers) freeze(all []*container) error {
	for _, ctr := range all {
		already, err := ctr.groups.isFrozen()
		if err == nil && already {
			continue
		}
		if err == nil {
			err = ctr.groups.setFrozen(cgroups.Frozen)
		}
		if err != nil && ctr.current().Status == shimapi.StatusRunning { // its end may be being written
			return fault(shimapi.KindInternal,
				"container %s, which has CAP_SYS_PTRACE in the same PID namespace, can't be frozen while this one is made: %w", ctr.id, err)
		}
		t.frozen = append(t.frozen, ctr)
	}
	return nil
}

// thaw is called with mu held.
func (t *tracers) thaw() {
	for _, ctr := range t.frozen {
		if err := ctr.groups.setFrozen(cgroups.Thawed); err != nil && !isClosed(ctr.done) {
			slog.Error("container not thawed", "container", ctr.id, "error", err)
		}
	}
	t.frozen = nil
}

// thawAdopted thaws a tracer that the dead shim may have frozen.
func (ctr *container) thawAdopted() {
	if !ctr.isTracer() {
		return
	}
	if err := ctr.groups.setFrozen(cgroups.Thawed); err != nil {
		slog.Error("adopted container not thawed", "container", ctr.id, "error", err)
	}
}
