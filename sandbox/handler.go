package sandbox

import (
	"maps"
	"slices"
)

// Handler is what a runtime handler means, which a pod names by its RuntimeClass
// (KEP-585). The zero value is the built-in runtime, that of pods which name none.
type Handler struct{}

// handlers are the runtime handlers by name.
type handlers map[string]Handler

// get finds the handler of a pod. The error wraps [ErrInvalid].
func (all handlers) get(name string) (Handler, error) {
	if name == "" {
		return Handler{}, nil
	}
	h, ok := all[name]
	if !ok {
		return h, failed(ErrInvalid, "runtime handler %q has no table [runtime.NAME] in the configuration; name none or one of %q", name, slices.Sorted(maps.Keys(all)))
	}
	return h, nil
}
