package shim

import (
	"path/filepath"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"

	"berth/oci/shimapi"
)

// update changes the limits of a pod's cgroup. Those that the request does not name stay
// as they are.
func (ps *pods) update(_ *call, r shimapi.UpdatePodRequest) (any, error) {
	p, ok := ps.registry.pod(r.ID)
	if !ok || !p.isMade() || isClosed(p.done) {
		return nil, fault(shimapi.KindNotFound, "pod %s does not run", r.ID)
	}
	return nil, setPodLimits(&r.Limits)
}

// setPodLimits makes the cgroup of a pod's containers, in each hierarchy, and limits it. On
// an error what was made stays: the daemon has the path recorded and removes it.
func setPodLimits(l *shimapi.PodLimits) error {
	if l == nil || l.Resources == nil {
		return nil
	}
	if err := checkCgroupPath(l.Path, false); err != nil {
		return fault(shimapi.KindInvalid, "limits of the pod: %w", err)
	}
	limits := cgroups.Resources{SkipDevices: true} // those are the containers'
	mergeCPU(&limits, l.Resources.CPU)
	mergeMemory(&limits, l.Resources.Memory)
	mergeRest(&limits, l.Resources)
	m, err := manager.New(&cgroups.Cgroup{Path: filepath.Clean(l.Path), Resources: &limits})
	if err != nil {
		return fault(shimapi.KindInternal, "limits of the pod: %w", err)
	}
	if err := m.Apply(-1); err != nil { // makes the directories, and moves no process
		return fault(shimapi.KindInternal, "make the cgroup of the pod's limits: %w", err)
	}
	if err := m.Set(&limits); err != nil {
		return fault(updateKind(err), "limits of the pod: %w", err)
	}
	return nil
}
