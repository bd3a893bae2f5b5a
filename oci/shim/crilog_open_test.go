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
		_, err := openLog(path)
		var refused *shimapi.Error
		if !errors.As(err, &refused) || refused.Kind != shimapi.KindInvalid {
			t.Errorf("%s: %v, want it refused as invalid", filepath.Base(path), err)
		}
	}
	if data, err := os.ReadFile(victim); err != nil || string(data) != "precious" {
		t.Errorf("the link's target holds %q, %v", data, err)
	}
}
