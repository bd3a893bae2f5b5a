package shim

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

func TestLogIsARegularFile(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	link, fifo, sub := filepath.Join(dir, "link"), filepath.Join(dir, "fifo"), filepath.Join(dir, "dev")
	if err := errors.Join(os.Symlink(victim, link), unix.Mkfifo(fifo, 0o600), unix.Mknod(sub, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3)))); err != nil {
		t.Fatal(err)
	}
	below, long := filepath.Join(victim, "log"), filepath.Join(dir, strings.Repeat("l", 256))
	for _, path := range []string{link, fifo, sub, dir, below, long} {
		_, err := openLog(logTarget{root: "", path: path})
		var refused *shimapi.Error
		if !errors.As(err, &refused) || refused.Kind != shimapi.KindInvalid {
			t.Errorf("%s: %v, want it refused as invalid", filepath.Base(path), err)
		}
	}
	if data, err := os.ReadFile(victim); err != nil || string(data) != "precious" {
		t.Errorf("the link's target holds %q, %v", data, err)
	}
}

// A pod that can write into the directory of its logs puts a link there in place
// of the directory of a container's log, so that root writes elsewhere.
func TestAttackLogDirectory(t *testing.T) {
	out, root := t.TempDir(), filepath.Join(t.TempDir(), "logs")
	if err := errors.Join(os.Mkdir(root, 0o755), os.Symlink(out, filepath.Join(root, "link")), os.Symlink("..", filepath.Join(root, "up"))); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"link/0.log", "link/made/0.log", "up/0.log", "../0.log"} {
		if _, err := openLog(logTarget{root: root, path: root + "/" + path}); err == nil {
			t.Errorf("%s is opened", path)
		}
	}
	for dir, want := range map[string]int{out: 0, filepath.Dir(root): 1} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != want {
			t.Errorf("in %s are %v, %v", dir, entries, err)
		}
	}
	log, err := openLog(logTarget{root: root, path: filepath.Join(root, "deep", "er", "0.log")})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.close(); err != nil {
		t.Error(err)
	}
}
