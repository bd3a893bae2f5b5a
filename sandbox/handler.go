package sandbox

import (
	"context"
	"fmt"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/sandbox/record"
)

// Handler is what a runtime handler means, which a pod names by its RuntimeClass
// (KEP-585). The zero value is the built-in runtime, that of pods which name none.
type Handler = record.Runtime

// handlerOf is what the handler of a pod means; nil for the default.
func (p *podVerbs) handlerOf(ctx context.Context, name string) (*Handler, error) {
	if name == "" {
		return nil, nil
	}
	h, err := p.handlers.Handler(ctx, name)
	if err != nil {
		return nil, err
	}
	return &h, nil
}

// shimInPod as the cgroup of a handler's shims stands for the one of each pod.
const shimInPod = "pod"

// placeShim decides about the cgroup of the pod's foreign shim, whose name can't be taken
// for that of a container: it has no whole ID.
func (r *podRecord) placeShim(h oci.Host) error {
	if !r.isForeign() || r.Runtime.ShimCgroup == "" {
		return nil
	}
	parent, name := r.Runtime.ShimCgroup, "shim-"+r.ID[:13]
	if parent == shimInPod {
		parent = cgroupParent(h, r)
	}
	if !h.SystemdCgroup {
		name = "berth-" + name
	}
	path, err := oci.CgroupsPath(parent, name, h)
	if err != nil {
		return fmt.Errorf("runtime.%s.shim_cgroup in the node's configuration: %w", r.Handler, asDomain(err))
	}
	r.Runtime.ShimCgroup = path
	return nil
}

// isForeign tells whether a shim of containerd runs the pod.
func (r *podRecord) isForeign() bool { return r.Runtime != nil && r.Runtime.Shim != "" }

// noHostDevices tells whether privileged containers go without the host's devices.
func (r *podRecord) noHostDevices() bool { return r.Runtime != nil && r.Runtime.NoHostDevices }

// allowedDevices are the paths of the devices that the pod's annotations may ask for.
func (r *podRecord) allowedDevices(h oci.Host) []string {
	if r.Runtime == nil {
		return h.AllowedDevices
	}
	return slices.Concat(h.AllowedDevices, r.Runtime.AllowedDevices)
}

// givenDevices are those that the pod's handler gives to each container.
func (r *podRecord) givenDevices() (out []*runtimeapi.Device, err error) {
	if r.Runtime == nil {
		return nil, nil
	}
	for _, entry := range r.Runtime.Devices {
		d, err := parseDevice(fmt.Sprintf("runtime.%s.devices of the node's configuration", r.Handler), entry)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// hasContainer tells whether a container stands for the pod.
func (r *podRecord) hasContainer() bool { return r.isForeign() && !r.Runtime.NoContainer }
