package sandbox

import (
	"maps"
	"slices"

	"berth/sandbox/record"
)

// Handler is what a runtime handler means, which a pod names by its RuntimeClass
// (KEP-585). The zero value is the built-in runtime, that of pods which name none.
type Handler = record.Runtime

// handlers are the runtime handlers by name.
type handlers map[string]Handler

// get finds the handler of a pod; nil for the default. The error wraps [ErrInvalid].
func (all handlers) get(name string) (*Handler, error) {
	if name == "" {
		return nil, nil
	}
	h, ok := all[name]
	if !ok {
		return nil, failed(ErrInvalid, "runtime handler %q has no table [runtime.NAME] in the configuration; name none or one of %q", name, slices.Sorted(maps.Keys(all)))
	}
	return &h, nil
}

// isForeign tells whether a shim of containerd runs the pod.
func (r *podRecord) isForeign() bool { return r.Runtime != nil && r.Runtime.Shim != "" }

// noHostDevices tells whether privileged containers go without the host's devices.
func (r *podRecord) noHostDevices() bool { return r.Runtime != nil && r.Runtime.NoHostDevices }

// hasContainer tells whether a container stands for the pod.
func (r *podRecord) hasContainer() bool { return r.isForeign() && !r.Runtime.NoContainer }
