package sandbox

import (
	"context"

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

// isForeign tells whether a shim of containerd runs the pod.
func (r *podRecord) isForeign() bool { return r.Runtime != nil && r.Runtime.Shim != "" }

// noHostDevices tells whether privileged containers go without the host's devices.
func (r *podRecord) noHostDevices() bool { return r.Runtime != nil && r.Runtime.NoHostDevices }

// hasContainer tells whether a container stands for the pod.
func (r *podRecord) hasContainer() bool { return r.isForeign() && !r.Runtime.NoContainer }
