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

	"berth/oci"
)

// onTmpfs is a Manager whose root is a file system of 64 KiB of its own, and which
// expects the program of the shims at binary.
func onTmpfs(t *testing.T) (m *Manager, root, binary string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: can't mount a file system to fill")
	}
	root, binary = t.TempDir(), filepath.Join(t.TempDir(), "berth-shim")
	if err := unix.Mount("berth-test", root, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	shims, err := oci.OpenShims(t.Context(), oci.ShimConfig{Binary: binary, StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(shims.Shutdown(context.Background()), shims.Close()); err != nil {
			t.Error(err)
		}
	})
	if m, err = New(Options{Root: root, State: t.TempDir(), Shims: shims}); err != nil {
		t.Fatal(err)
	}
	return m, root, binary
}

// readyNow is what Ready says after a look that is not older than the call.
func (m *Manager) readyNow() error {
	m.health.mu.Lock()
	m.health.looked = time.Time{}
	m.health.mu.Unlock()
	return m.Ready()
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
	m, root, _ := onTmpfs(t)
	wantReason(t, "at first", m.readyNow(), "")
	big := filepath.Join(root, "big")
	if err := os.WriteFile(big, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	wantReason(t, "full", m.readyNow(), "no space left")
	if err := os.Remove(big); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "with room again", m.readyNow(), "")
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "read-only", m.readyNow(), "read-only")
	if err := unix.Mount("", root, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "writable again", m.readyNow(), "")
	if err := unix.Mount("berth-test", root, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "mounted over", m.readyNow(), "lost")
	if err := os.Mkdir(filepath.Join(root, "pods"), 0o700); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "another root", m.readyNow(), "is not the directory")
	if err := unix.Unmount(root, 0); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "the root is back", m.readyNow(), "")
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
	m, _, binary := onTmpfs(t)
	if _, err := m.newShim(t.Context()); err == nil {
		t.Fatal("a shim without a program")
	}
	wantReason(t, "without the program", m.Ready(), binary)
	if err := os.Symlink(built, binary); err != nil {
		t.Fatal(err)
	}
	m.health.mu.Lock()
	m.health.tried = time.Time{}
	m.health.mu.Unlock()
	wantReason(t, "before the next try", m.Ready(), binary)
	m.health.mu.Lock()
	probing := m.health.probing
	m.health.mu.Unlock()
	if probing != nil {
		<-probing
	}
	wantReason(t, "with the program", m.Ready(), "")
}
