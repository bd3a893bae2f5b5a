package sandbox

import "testing"

// A handler whose isolation this release can't give runs nothing, rather than the built-in.
func TestHandlers(t *testing.T) {
	all := handlers{"runc": {}, "gvisor": {Foreign: true}}
	for _, name := range []string{"", "runc"} {
		if err := all.check(name); err != nil {
			t.Errorf("handler %q: %v", name, err)
		}
	}
	wantError(t, "a handler of a foreign shim", all.check("gvisor"), ErrUnsupported)
	wantError(t, "a handler without a table", all.check("kata"), ErrInvalid)
}
