package crash

import (
	"os"
	"testing"
)

// soak leaves a test out unless BERTH_SOAK is set: it kills at moments that differ
// from run to run, or takes minutes. `make crash` sets it.
func soak(t *testing.T) {
	t.Helper()
	if os.Getenv("BERTH_SOAK") == "" {
		t.Skip("kills at other moments each time, or takes minutes: make crash runs it")
	}
}
