package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRefusedForks: the file that counts for this cgroup alone goes first.
func TestRefusedForks(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  uint64
	}{
		"v1 or an older v2": {map[string]string{"pids.events": "max 7\n"}, 7},
		"v2":                {map[string]string{"pids.events": "max 9\n", "pids.events.local": "max 2\n"}, 2},
		"not counted":       {nil, 0},
		"more keys":         {map[string]string{"pids.events": "other 4\nmax 1\n"}, 1},
	} {
		dir := t.TempDir()
		for file, text := range c.files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := RefusedForks(dir); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
