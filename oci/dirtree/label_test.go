package dirtree

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const testLabel = "system_u:object_r:container_file_t:s0:c1,c2"

// labelOf is the label of a file or link itself, "" for none.
func labelOf(t *testing.T, path string) string {
	t.Helper()
	buf := make([]byte, 256)
	n, err := unix.Lgetxattr(path, labelName, buf)
	if errors.Is(err, unix.ENODATA) {
		return ""
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return strings.TrimRight(string(buf[:n]), "\x00")
}

// onLabels skips where an unprivileged test can't set labels. Without SELinux the kernel
// keeps the attribute as it keeps any other.
func onLabels(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := Label(t.Context(), root, testLabel); err != nil {
		t.Skipf("labels can't be set here: %v", err)
	}
	if labelOf(t, root) != testLabel {
		t.Skip("the file system of temporary files keeps no labels")
	}
	return root
}

// TestLabel labels directories, files, links and FIFOs, but nothing that a link leads to.
func TestLabel(t *testing.T) {
	root, outside := onLabels(t), t.TempDir()
	inside := []string{"d", "d/e", "d/e/file", "fifo", "link", "dead"}
	if err := errors.Join(
		os.MkdirAll(root+"/d/e", 0o700), os.WriteFile(root+"/d/e/file", nil, 0o400), unix.Mkfifo(root+"/fifo", 0o600),
		os.Symlink(outside, root+"/link"), os.Symlink("/nowhere", root+"/dead"), os.WriteFile(outside+"/file", nil, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	if err := Label(t.Context(), root, testLabel); err != nil {
		t.Fatal(err)
	}
	for _, name := range inside {
		if got := labelOf(t, filepath.Join(root, name)); got != testLabel {
			t.Errorf("%s has the label %q", name, got)
		}
	}
	for _, path := range []string{outside, outside + "/file"} {
		if got := labelOf(t, path); got != "" {
			t.Errorf("%s, to which a link leads, has the label %q", path, got)
		}
	}
	if err := Label(t.Context(), root+"/d/e/file", testLabel+",c3"); err != nil || labelOf(t, root+"/d/e/file") != testLabel+",c3" {
		t.Errorf("a single file: %v, %q", err, labelOf(t, root+"/d/e/file"))
	}
}

// TestLabelStaysOnItsMount: what is mounted below, and a file that is, keeps its label.
func TestLabelStaysOnItsMount(t *testing.T) {
	root, other := onLabels(t), t.TempDir()
	if err := errors.Join(os.Mkdir(root+"/m", 0o700), os.WriteFile(root+"/f", nil, 0o600), os.WriteFile(other+"/f", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{other: root + "/m", other + "/f": root + "/f"} {
		if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
			t.Skipf("bind mount: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(to, unix.MNT_DETACH) })
	}
	if err := Label(t.Context(), root, testLabel); err != nil {
		t.Fatal(err)
	}
	if a, b := labelOf(t, other), labelOf(t, other+"/f"); a != "" || b != "" {
		t.Errorf("the mounted directory has the label %q, its file %q", a, b)
	}
}

// TestLabelIsNotKept: a file system without labels is no error; no such file is one.
func TestLabelIsNotKept(t *testing.T) {
	if err := Label(t.Context(), "/proc/self/attr", testLabel); err != nil {
		t.Errorf("proc: %v", err)
	}
	if err := Label(t.Context(), t.TempDir()+"/none", testLabel); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such file: %v", err)
	}
}

// TestAttackLabelSwap moves a directory away and puts a link to another tree in its
// place, again and again, while the tree is labelled.
func TestAttackLabelSwap(t *testing.T) {
	root, outside := onLabels(t), t.TempDir()
	if err := errors.Join(os.MkdirAll(root+"/d/e", 0o700), os.Mkdir(outside+"/e", 0o700), os.WriteFile(outside+"/e/f", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = os.Rename(root+"/d", root+"/away")
			_ = os.Symlink(outside, root+"/d")
			_ = os.Remove(root + "/d")
			_ = os.Rename(root+"/away", root+"/d")
		}
	}()
	for i := range 2000 {
		label := testLabel
		if i%2 == 1 {
			label += ",c3"
		}
		if err := Label(t.Context(), root, label); err != nil {
			t.Errorf("labelling: %v", err)
			break
		}
	}
	stop()
	<-done
	for _, path := range []string{outside, outside + "/e", outside + "/e/f"} {
		if got := labelOf(t, path); got != "" {
			t.Errorf("%s has the label %q", path, got)
		}
	}
}
