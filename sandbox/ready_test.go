package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shims"
)

// onTmpfs is a health of a root that is a file system of 64 KiB of its own, and which
// expects the program of the shims at binary.
func onTmpfs(t *testing.T) (h *health, root, binary string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: can't mount a file system to fill")
	}
	root, binary = t.TempDir(), filepath.Join(t.TempDir(), "berth-shim")
	if err := unix.Mount("berth-test", root, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	set, err := shims.Open(t.Context(), shims.Config{Binary: binary, StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(set.Shutdown(context.Background()), set.Close()); err != nil {
			t.Error(err)
		}
	})
	paths := layout{root: root, state: t.TempDir()}
	if err := paths.makeDirs(); err != nil {
		t.Fatal(err)
	}
	if h, err = newHealth(paths, set); err != nil {
		t.Fatal(err)
	}
	return h, root, binary
}

// readyNow is what Ready says after a look that is not older than the call.
func (h *health) readyNow() error {
	h.mu.Lock()
	h.looked = time.Time{}
	h.mu.Unlock()
	return h.Ready()
}

func wantReason(t *testing.T, when string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v, want ready", when, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: %v, want %q", when, err, want)
	}
}

// A node whose disk takes nothing any more can't run a pod and has to say so.
func TestNotReadyTellsOfTheDisk(t *testing.T) {
	h, root, _ := onTmpfs(t)
	wantReason(t, "at first", h.readyNow(), "")
	big := filepath.Join(root, "big")
	if err := os.WriteFile(big, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	wantReason(t, "full", h.readyNow(), "no space left")
	if err := os.Remove(big); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "with room again", h.readyNow(), "")
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "read-only", h.readyNow(), "read-only")
	if err := unix.Mount("", root, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "writable again", h.readyNow(), "")
	if err := unix.Mount("berth-test", root, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "mounted over", h.readyNow(), "lost")
	if err := os.Mkdir(filepath.Join(root, "pods"), 0o700); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "another root", h.readyNow(), "is not the directory")
	if err := unix.Unmount(root, 0); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "the root is back", h.readyNow(), "")
}

// Without a shim no pod can run; the kubelet asks for none then, so the daemon itself
// has to find out when it can again.
func TestNotReadyTellsOfTheShim(t *testing.T) {
	built, err := filepath.Abs("../bin/berth-shim")
	if err == nil {
		_, err = os.Stat(built)
	}
	if err != nil {
		t.Skip("no bin/berth-shim: run make build first")
	}
	h, _, binary := onTmpfs(t)
	if _, err := h.newShim(t.Context(), false); err == nil {
		t.Fatal("a shim without a program")
	}
	wantReason(t, "without the program", h.Ready(), binary)
	if err := os.Symlink(built, binary); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.tried = time.Time{}
	h.mu.Unlock()
	wantReason(t, "before the next try", h.Ready(), binary)
	h.mu.Lock()
	probing := h.probing
	h.mu.Unlock()
	if probing != nil {
		<-probing
	}
	wantReason(t, "with the program", h.Ready(), "")
}
