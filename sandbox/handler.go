package sandbox

import (
	"maps"
	"slices"
)

// Handler is what a runtime handler means, which a pod names by its RuntimeClass
// (KEP-585). The zero value is the built-in runtime, that of pods which name none.
type Handler struct {
	// Foreign handlers are of a shim that is not berth's, which this release can't drive.
	// Their pods are refused rather than run without the isolation they ask for.
	Foreign bool
}

// handlers are the runtime handlers by name.
type handlers map[string]Handler

// check refuses a handler that can't run pods. The error wraps [ErrInvalid] or
// [ErrUnsupported].
func (all handlers) check(name string) error {
	h, ok := all[name]
	switch {
	case name == "":
		return nil
	case !ok:
		return failed(ErrInvalid, "runtime handler %q has no table [runtime.NAME] in the configuration; name none or one of %q", name, slices.Sorted(maps.Keys(all)))
	case h.Foreign:
		return failed(ErrUnsupported, "runtime handler %q is of the type shim.v2, which this release does not run; name none or one of the type builtin", name)
	}
	return nil
}
