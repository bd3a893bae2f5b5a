package layer

import (
	"archive/tar"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// gone tells whether there is nothing of that name, not even a whiteout.
func gone(t *testing.T, elem ...string) bool {
	t.Helper()
	var st unix.Stat_t
	err := unix.Lstat(filepath.Join(elem...), &st)
	return err == unix.ENOENT
}

// TestWhiteoutOfNothing has whiteouts where no layer below has a directory: in the
// first layer, in a new directory, and in one that hides those below.
func TestWhiteoutOfNothing(t *testing.T) {
	first := archive(t, folder("d", 0o750), file("d/.wh.x", ""), file("d/y", "y"), file(".wh.z", ""))
	low, res := apply(t, first)
	inherit(t, low, res)
	for _, n := range []string{"d/x", "z"} {
		if !gone(t, low, FSDir, n) {
			t.Errorf("the first layer has the whiteout %s", n)
		}
	}
	if st := stat(t, low, FSDir, "d"); st.Mtim.Nano() != when.UnixNano() {
		t.Error("the directory's time has changed")
	}
	sameBack(t, low, first)
	second := archive(t, file("d/.wh.y", ""), folder("new", 0o755), file("new/.wh.x", ""),
		folder("o", 0o755), file("o/.wh..wh..opq", ""), file("o/.wh.x", ""), file("deep/er/.wh.x", ""),
		file("r/.wh.x", ""), file("r/x", "and an entry"), file("f/.wh.x", ""), file("f", "no directory"))
	top, res := apply(t, second)
	inherit(t, top, res, low)
	for n, want := range map[string]bool{"new/x": true, "o/x": true, "deep/er/x": true, "r/x": false, "d/y": false} {
		if gone(t, top, FSDir, n) != want {
			t.Errorf("%s is gone: %v", n, !want)
		}
	}
	sameBack(t, top, second)
	if _, err := os.Stat(filepath.Join(top, whiteoutsName)); !os.IsNotExist(err) {
		t.Error(err)
	}
	for _, l := range []string{top, low} { // what overlayfs shows of each alone, and of both
		view := t.TempDir()
		err := unix.Mount("overlay", view, "overlay", unix.MS_RDONLY, "lowerdir="+filepath.Join(l, FSDir)+":"+filepath.Join(low, FSDir))
		if l == low {
			err = unix.Mount("overlay", view, "overlay", unix.MS_RDONLY, "lowerdir="+filepath.Join(l, FSDir)+":"+t.TempDir())
		}
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("cp", "-a", view, filepath.Join(t.TempDir(), "copy")).CombinedOutput()
		if err != nil {
			t.Errorf("cp -a: %s", out)
		}
		if err := unix.Unmount(view, 0); err != nil {
			t.Error(err)
		}
	}
}

// TestWhiteoutThenContent has a directory whited out and files put into it, without an
// entry for it.
func TestWhiteoutThenContent(t *testing.T) {
	low, res := apply(t, archive(t, folder("d", 0o700), file("d/old", "x"), folder("e", 0o755), folder("e/f", 0o755), file("e/f/old", "x")))
	inherit(t, low, res)
	top, res := apply(t, archive(t, file(".wh.d", ""), file("d/new", "n"), file("e/.wh.f", ""), file("e/f/g/h", "n")))
	inherit(t, top, res, low)
	for _, d := range []string{"d", "e/f"} {
		buf := make([]byte, 8)
		if n, err := unix.Getxattr(filepath.Join(top, FSDir, d), opaqueXattr, buf); err != nil || string(buf[:n]) != "y" {
			t.Errorf("%s is not opaque: %v", d, err)
		}
	}
	if content(t, top, FSDir, "d/new") != "n" || content(t, top, FSDir, "e/f/g/h") != "n" {
		t.Error("content is lost")
	}
}

// TestVerifyHealthy wants nothing to be told of layers as odd as tools make them.
func TestVerifyHealthy(t *testing.T) {
	late := func(year int) ent {
		f := file("in"+time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).Format("2006"), "late")
		f.ModTime, f.Format = time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC), tar.FormatPAX
		return f
	}
	data := archive(t,
		folder("a", 0o755), file("a/x", "1"), folder("a/b", 0o755), file("a/b/c", "2"), file("a", "now a file"),
		folder("l", 0o755), file("l/x", "first"), folder("to", 0o755), file("to/x", "another length"), symlink("l", "to"),
		folder("again", 0o755), file("again/x", "1"), file("again", ""), folder("again", 0o700),
		late(2040), late(2460), late(2490), late(9000))
	dir, res := apply(t, data)
	inherit(t, dir, res)
	faults, err := Verify(t.Context(), dir, digest.FromBytes(data))
	if err != nil || len(faults) > 0 {
		t.Errorf("%q %v", faults, err)
	}
	if err := os.Chtimes(filepath.Join(dir, FSDir, "in2040"), time.Time{}, time.Unix(1_700_000_000, 0)); err != nil {
		t.Fatal(err)
	}
	if faults, err = Verify(t.Context(), dir, digest.FromBytes(data)); err != nil || len(faults) != 1 {
		t.Errorf("after a change: %q %v", faults, err)
	}
}
