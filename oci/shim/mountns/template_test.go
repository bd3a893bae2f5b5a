package mountns

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func template(t *testing.T, needed ...string) *Template {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	tmpl, err := New(t.TempDir(), needed...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tmpl.Close() })
	return tmpl
}

// mountAt mounts a tmpfs for the time of the test, with its propagation set.
func mountAt(t *testing.T, dir string, propagation uintptr) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("test", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", propagation, ""); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// in runs a shell in a copy of the template, which shows that programs with libraries start
// there, and returns what it prints.
func in(t *testing.T, tmpl *Template, root string, sources []Source, script string) string {
	t.Helper()
	var out []byte
	err := tmpl.Run(root, sources, func() (err error) {
		out, err = exec.CommandContext(t.Context(), "/bin/sh", "-c", script).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// TestSourcesAreThoseOfTheHost looks at a root, a directory with a mount below it, a file and a
// mount of the host that is made after the template, and at the table that a clone would copy.
func TestSourcesAreThoseOfTheHost(t *testing.T) {
	dir := t.TempDir()
	root, volume, file := filepath.Join(dir, "root"), filepath.Join(dir, "volume"), filepath.Join(dir, "file")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	tmpl := template(t, dir)
	mountAt(t, root, unix.MS_PRIVATE)
	mountAt(t, volume, unix.MS_PRIVATE)
	mountAt(t, filepath.Join(volume, "below"), unix.MS_PRIVATE)
	write(t, filepath.Join(root, "mark"), "root")
	write(t, filepath.Join(volume, "below", "mark"), "below")
	write(t, file, "file")
	sources := []Source{{Path: volume, Recursive: true}, {Path: volume}, {Path: file}}
	got := in(t, tmpl, root, sources, "cat "+root+"/mark "+tmpl.Spot(0)+"/below/mark "+tmpl.Spot(2)+"; ls "+tmpl.Spot(1)+"/below; cat /proc/self/mountinfo")
	if !strings.HasPrefix(got, "rootbelowfile") {
		t.Errorf("the sources show %.40q", got)
	}
	table := strings.Split(strings.TrimSpace(got), "\n")
	for _, line := range table {
		if point := strings.Fields(line)[4]; within(point, dir) && point != root && !within(dir, point) {
			t.Errorf("a mount of the host is in the copy: %s", line)
		}
	}
}

// TestPropagation mounts something on a source in the host's namespace and something else in
// the copy: each must see the other's where the source is shared.
func TestPropagation(t *testing.T) {
	dir := t.TempDir()
	root, volume := filepath.Join(dir, "root"), filepath.Join(dir, "volume")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	mountAt(t, volume, unix.MS_SHARED)
	for _, d := range []string{"out", "back"} {
		if err := os.Mkdir(filepath.Join(volume, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tmpl := template(t, dir)
	err := tmpl.Run(root, []Source{{Path: volume}}, func() error {
		if err := unix.Mount("test", filepath.Join(tmpl.Spot(0), "back"), "tmpfs", 0, ""); err != nil {
			return err
		}
		write(t, filepath.Join(tmpl.Spot(0), "back", "mark"), "")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(volume, "back"), unix.MNT_DETACH) })
	if _, err := os.Stat(filepath.Join(volume, "back", "mark")); err != nil {
		t.Errorf("a mount made in the copy is not on the host: %v", err)
	}
	got := in(t, tmpl, root, []Source{{Path: volume, Recursive: true}}, "ls "+tmpl.Spot(0)+"/back")
	if got != "mark\n" {
		t.Errorf("a mount of the host shows %q in the copy", got)
	}
}

// TestNothingStays looks for what a copy leaves in the host's table and keeps alive.
func TestNothingStays(t *testing.T) {
	dir := t.TempDir()
	root, volume := filepath.Join(dir, "root"), filepath.Join(dir, "volume")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	tmpl := template(t, dir)
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	mountAt(t, volume, unix.MS_SHARED)
	in(t, tmpl, root, []Source{{Path: volume}}, "true")
	// Not detached: this fails while another namespace has a mount on the same tmpfs busy.
	if err := unix.Unmount(volume, 0); err != nil {
		t.Errorf("the source is in use: %v", err)
	}
	if after, err := os.ReadFile("/proc/self/mountinfo"); err != nil || string(after) != string(before) {
		t.Errorf("mounts before:\n%s\nafter:\n%s%v", before, after, err)
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	tmpl := template(t, dir)
	ran := func() error { t.Error("it ran"); return nil }
	if err := tmpl.Run(dir, []Source{{Path: filepath.Join(dir, "missing")}}, ran); !errors.Is(err, ErrSource) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing source: %v", err)
	}
	late := filepath.Join(dir, "late")
	mountAt(t, late, unix.MS_PRIVATE)
	root := filepath.Join(late, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := tmpl.Run(root, nil, ran); !errors.Is(err, ErrNoRoot) {
		t.Errorf("a root on a mount that the template lacks: %v", err)
	}
	if _, err := New(filepath.Join(dir, "missing")); err == nil {
		t.Error("a template without a directory for sources")
	}
}
