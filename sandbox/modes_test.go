package sandbox

import (
	"os"
	"testing"
)

// A user of the host who reaches a container's files runs what is setuid there.
func TestOnlyRootReachesContainerFiles(t *testing.T) {
	opt := Options{Root: t.TempDir(), State: t.TempDir()}
	if err := os.MkdirAll(opt.Root+"/pods", 0o755); err != nil { // of an earlier version
		t.Fatal(err)
	}
	m := layout{root: opt.Root, state: opt.State}
	if err := m.makeDirs(); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"plain", "mapped"} {
		if err := m.makeStateDir(id, map[string]uint32{"mapped": 100000}[id]); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{m.podsDir(), opt.State + "/pods", m.containerStateDir("plain"), m.containerStateDir("mapped")} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm()&0o007 != 0 {
			t.Errorf("%s: mode %v, %v; others must not pass", dir, info.Mode(), err)
		}
	}
}
