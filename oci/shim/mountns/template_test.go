package mountns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// A missing source, a missing root and a source that the kernel would ask a dead server for
// are refused at once, without a copy and without a thread that hangs.
func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	tmpl := template(t, dir)
	refused := func(what, root string, sources ...Source) {
		t.Helper()
		ended := make(chan error, 1)
		go func() { ended <- tmpl.Run(root, sources, func() error { t.Error("it ran"); return nil }) }()
		select {
		case err := <-ended:
			if !errors.Is(err, ErrNoCopy) {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s: it hangs", what)
		}
	}
	refused("a missing source", dir, Source{Path: filepath.Join(dir, "missing")})
	late := filepath.Join(dir, "late")
	mountAt(t, late, unix.MS_PRIVATE)
	root := filepath.Join(late, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	refused("a root on a mount that the template lacks", root)
	refused("a file of a dead server", dir, Source{Path: filepath.Join(dead(t), "sub")})
	if _, err := New(filepath.Join(dir, "missing")); err == nil {
		t.Error("a template without a directory for sources")
	}
}

// The root of a dead file system needs no question to its server, so it is a source like
// others; what the container does with it may hang, but that is the container's.
func TestRootOfADeadServer(t *testing.T) {
	dir := t.TempDir()
	tmpl := template(t, dir)
	ran := make(chan error, 1)
	go func() {
		ran <- tmpl.Run(dir, []Source{{Path: dead(t), Recursive: true}}, func() error { return nil })
	}()
	select {
	case err := <-ran:
		if err != nil && !errors.Is(err, ErrNoCopy) {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it hangs")
	}
}

// dead mounts a FUSE file system whose server never answers.
func dead(t *testing.T) string {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no FUSE: %v", err)
	}
	dir := t.TempDir()
	if err := unix.Mount("dead", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd)); err != nil {
		_ = unix.Close(fd)
		t.Skipf("no FUSE: %v", err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH) // whoever waits is told
		_ = unix.Close(fd)
	})
	return dir
}
