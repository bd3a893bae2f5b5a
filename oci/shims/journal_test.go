package shims

import (
	"os"
	"path/filepath"
	"testing"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
)

// A shim of another release may have served between two that keep a journal. What the file then says
// of a log is long past.
func TestJournalOfAnEarlierShimIsRemoved(t *testing.T) {
	for name, c := range map[string]struct {
		identity any
		stays    bool
	}{
		"kept by the dead shim":     {shimapi.HelloResponse{Journal: shimapi.JournalPrefix + "1"}, true},
		"of another layout":         {shimapi.HelloResponse{Journal: shimapi.JournalPrefix + "2"}, false},
		"not kept by the dead shim": {shimapi.HelloResponse{}, false},
		"identity can't be read":    {"garbage", false},
		"nothing has served":        {nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			journal := filepath.Join(dir, shimapi.JournalPrefix+"1")
			if err := os.WriteFile(journal, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			if c.identity != nil {
				if err := atomicfile.WriteVolatile(filepath.Join(dir, shimapi.IdentityName), c.identity); err != nil {
					t.Fatal(err)
				}
			}
			if err := dropJournals(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(journal); (err == nil) != c.stays {
				t.Errorf("the journal: %v", err)
			}
		})
	}
}
