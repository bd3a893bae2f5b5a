package packaging

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"
)

// The same commit gives the same archive and list of modules, whichever directory
// it is built in: nothing in them tells where that was. With -trimpath the Go command takes
// what it has compiled for the one directory for the other, too; links, and C, are done in
// each.
func TestReleaseFromTwoDirectories(t *testing.T) {
	if err := exec.Command("git", "-C", "../..", "rev-parse", "HEAD").Run(); err != nil {
		t.Skip("this is no clone of git: two of it can't be built")
	}
	if out, err := exec.Command("../../hack/deps.sh", "go", "build").CombinedOutput(); err != nil {
		t.Skipf("nothing can be built: %s", out)
	}
	top := t.TempDir()
	var made [2]map[string]string
	for i, dir := range []string{filepath.Join(top, "a"), filepath.Join(top, "another", "directory", "b")} {
		output(t, "git", "clone", "-q", "--no-hardlinks", absolute(t, "../.."), dir)
		output(t, "make", "-s", "-C", dir, "archive", "VERSION=0.0.0-test")
		made[i] = map[string]string{}
		files, err := filepath.Glob(filepath.Join(dir, "bin/dist/*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			made[i][filepath.Base(f)] = read(t, filepath.Dir(f), filepath.Base(f))
		}
		for _, p := range programs {
			if data := read(t, dir, "bin/"+p); bytes.Contains([]byte(data), []byte(top)) {
				t.Errorf("%s has the directory that it was built in", p)
			}
		}
	}
	if len(made[0]) != 3 { // archive, list, sums
		t.Errorf("%d files were made", len(made[0]))
	}
	for name, data := range made[0] {
		if other, ok := made[1][name]; !ok || other != data {
			t.Errorf("%s has other bytes when it is built in another directory", name)
		}
	}
}
