package layer

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

type ent struct {
	tar.Header
	body string
}

func file(name, body string) ent {
	return ent{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, body}
}
func folder(name string, mode int64) ent {
	return ent{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode}, ""}
}
func link(name, to string) ent {
	return ent{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to, Mode: 0o644}, ""}
}
func symlink(name, to string) ent {
	return ent{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}, ""}
}

var when = time.Unix(1_600_000_000, 123_000_000)

func archive(t testing.TB, ents ...ent) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range ents {
		h := e.Header
		h.Size = int64(len(e.body))
		if h.ModTime.IsZero() {
			h.ModTime = when
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// apply unpacks and checks that the archive can be had back.
func apply(t testing.TB, data []byte) (string, Result) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layer")
	res, err := Apply(t.Context(), dir, bytes.NewReader(data), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	sameBack(t, dir, data)
	return dir, res
}

func sameBack(t testing.TB, dir string, data []byte) {
	t.Helper()
	h := sha256.New()
	var n counter
	if err := Assemble(dir, io.MultiWriter(h, &n)); err != nil {
		t.Fatalf("assemble: %v", err)
	}
	if want := sha256.Sum256(data); string(want[:]) != string(h.Sum(nil)) {
		t.Fatalf("assembled archive of %d bytes differs from the one of %d bytes", n, len(data))
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

func stat(t testing.TB, elem ...string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(elem...), &st); err != nil {
		t.Fatalf("%v: %v", elem, err)
	}
	return st
}

func content(t testing.TB, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestApplyKinds(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 100_000)
	long := strings.Repeat("d", 120) + "/" + strings.Repeat("f", 150)
	ents := []ent{
		folder("./", 0o755),
		folder("etc/", 0o750),
		file("etc/passwd", "root:x:0:0\n"),
		file("empty", ""),
		file("big", big),
		file(long, "long"),
		link("etc/pw", "etc/passwd"),
		symlink("lib", "usr/lib"),
		file("lib/a.so", "elf"),
		symlink("abs", "/etc"),
		file("abs/shadow", "x"),
		symlink("l2", "nowhere"),
		link("l3", "l2"),
		{tar.Header{Name: "suid", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 12, Gid: 13}, "s"},
		{tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}, ""},
		{tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600}, ""},
		{tar.Header{Name: "cap", Typeflag: tar.TypeReg, Mode: 0o755, PAXRecords: map[string]string{
			"SCHILY.xattr.user.a": "1", "SCHILY.xattr.trusted.overlay.redirect": "/etc",
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		}}, "c"},
		folder("tmp", 0o1777),
	}
	dir, res := apply(t, archive(t, ents...))
	fs := filepath.Join(dir, FSDir)
	if content(t, fs, "etc/passwd") != "root:x:0:0\n" || content(t, fs, "big") != big || content(t, fs, long) != "long" {
		t.Error("content differs")
	}
	if content(t, fs, "usr/lib/a.so") != "elf" || content(t, fs, "etc/shadow") != "x" {
		t.Error("a path through a link inside the archive was not followed")
	}
	if a, b := stat(t, fs, "etc/pw"), stat(t, fs, "etc/passwd"); a.Ino != b.Ino {
		t.Error("hard link is a copy")
	}
	if a, b := stat(t, fs, "l2"), stat(t, fs, "l3"); a.Ino != b.Ino {
		t.Error("hard link to a symbolic link is a copy")
	}
	if st := stat(t, fs, "suid"); st.Mode != unix.S_IFREG|0o4755 || st.Uid != 12 || st.Gid != 13 {
		t.Errorf("suid: mode %o uid %d", st.Mode, st.Uid)
	}
	if st := stat(t, fs, "null"); st.Mode != unix.S_IFCHR|0o666 || st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("null: mode %o", st.Mode)
	}
	if st := stat(t, fs, "fifo"); st.Mode != unix.S_IFIFO|0o600 {
		t.Errorf("fifo: mode %o", st.Mode)
	}
	for _, name := range []string{"etc", "etc/passwd", "big", "lib", "tmp", "."} {
		if st := stat(t, fs, name); st.Mtim.Nano() != when.UnixNano() {
			t.Errorf("%s: mtime %v", name, st.Mtim)
		}
	}
	if st := stat(t, fs, "tmp"); st.Mode != unix.S_IFDIR|0o1777 {
		t.Errorf("tmp: mode %o", st.Mode)
	}
	buf := make([]byte, 64)
	if n, err := unix.Getxattr(filepath.Join(fs, "cap"), "security.capability", buf); err != nil || n != 20 {
		t.Errorf("capability: %d %v", n, err)
	}
	if _, err := unix.Getxattr(filepath.Join(fs, "cap"), "trusted.overlay.redirect", buf); err == nil {
		t.Error("an overlay attribute of the archive was set")
	}
	if want := []string{strings.Repeat("d", 120), "usr", "usr/lib"}; fmt.Sprint(impliedBy(t, dir)) != fmt.Sprint(want) || res.Implied != len(want) {
		t.Errorf("implied %d: %q", res.Implied, impliedBy(t, dir))
	}
}

func TestWhiteouts(t *testing.T) {
	data := archive(t,
		file("a/.wh.gone", ""), file("b/.wh..wh..opq", ""), file("b/new", "n"),
		file(".wh.d", ""), folder("d", 0o755), file("d/x", "1"),
		folder("e", 0o755), file("e/y", "2"), file(".wh.e", ""),
		file("f", "3"), file(".wh.f", ""), file(".wh..wh.plnk/1.2", ""), file(".wh..wh.aufs", ""))
	dir, _ := apply(t, data)
	fs := filepath.Join(dir, FSDir)
	if st := stat(t, fs, "a/gone"); st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("whiteout has mode %o", st.Mode)
	}
	buf := make([]byte, 8)
	for _, d := range []string{"b", "d", "e"} {
		if n, err := unix.Getxattr(filepath.Join(fs, d), opaqueXattr, buf); err != nil || string(buf[:n]) != "y" {
			t.Errorf("%s is not opaque: %v", d, err)
		}
	}
	if content(t, fs, "f") != "3" || content(t, fs, "d/x") != "1" {
		t.Error("an entry beside its whiteout was lost")
	}
	for _, name := range []string{".wh.", ".wh..", ".wh..."} {
		if _, err := Apply(t.Context(), filepath.Join(t.TempDir(), "l"), bytes.NewReader(archive(t, file(name, ""))), Limits{}); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

// TestReplaced has the archive write its own files again, in every combination.
func TestReplaced(t *testing.T) {
	data := archive(t,
		file("f", "one"), file("f", "two"), file("f", "three"),
		folder("d", 0o755), file("d/x", "in a directory"), file("d/x", "again"), file("d", "now a file"), folder("d", 0o700), file("d/x", "and back"),
		symlink("s", "d"), file("s/y", "through s"), file("s", "no link now"),
		file("h", "h"), link("h2", "h"), link("f", "h"), link("h", "h2"), symlink("f", "h"),
		folder("g", 0o755), file("g/deep/er", "x"), symlink("g", "."), file("g/z", "z"))
	dir, res := apply(t, data)
	fs := filepath.Join(dir, FSDir)
	if content(t, fs, "d/x") != "and back" || content(t, fs, "s") != "no link now" || content(t, fs, "z") != "z" {
		t.Error("the last entry does not win")
	}
	if l, err := os.Readlink(filepath.Join(fs, "f")); err != nil || l != "h" {
		t.Errorf("f: %q %v", l, err)
	}
	if res.Replaced == 0 {
		t.Error("no replacement was counted")
	}
	if n, _ := unix.Getxattr(filepath.Join(fs, "d"), opaqueXattr, make([]byte, 1)); n != 1 {
		t.Error("a directory that replaced a file is not opaque")
	}
}

func TestSparse(t *testing.T) {
	for _, format := range []string{"0.0", "0.1", "1.0", "gnu"} {
		t.Run(format, func(t *testing.T) {
			src := t.TempDir()
			f, err := os.Create(filepath.Join(src, "sparse"))
			if err != nil {
				t.Fatal(err)
			}
			for _, off := range []int64{0, 1 << 20, 1<<20 + 300_000, 9 << 20} {
				if _, err := f.WriteAt([]byte(strings.Repeat("x", 5000)), off); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Truncate(20 << 20); err != nil {
				t.Fatal(err)
			}
			f.Close()
			args := []string{"-C", src, "--sparse", "-cf", "-"}
			if format == "gnu" {
				args = append(args, "--format=gnu", "sparse")
			} else {
				args = append(args, "--format=posix", "--sparse-version="+format, "sparse")
			}
			dir, _ := apply(t, run(t, "tar", args...))
			if content(t, dir, FSDir, "sparse") != content(t, src, "sparse") {
				t.Error("content differs")
			}
			if st := stat(t, dir, FSDir, "sparse"); st.Blocks*512 > 1<<20 {
				t.Errorf("%d bytes are allocated", st.Blocks*512)
			}
		})
	}
}

func impliedBy(t testing.TB, dir string) (list []string) {
	t.Helper()
	if err := eachPath(filepath.Join(dir, impliedName), func(p string) error { list = append(list, p); return nil }); err != nil {
		t.Fatal(err)
	}
	return list
}

// inherit puts the layer on others, lowest first.
func inherit(t testing.TB, dir string, res Result, below ...string) {
	t.Helper()
	var b Below
	defer b.Close()
	for _, d := range below {
		if err := b.Push(d); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Inherit(t.Context(), dir, res, &b); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, impliedName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the list of implied directories is still there: %v", err)
	}
}

func TestInherit(t *testing.T) {
	low, _ := apply(t, archive(t, folder("./", 0o711), folder("home", 0o755), ent{tar.Header{Name: "home/u", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 1000, Gid: 1000}, ""},
		folder("w", 0o700), folder("o", 0o700), folder("o/p", 0o711)))
	mid, _ := apply(t, archive(t, folder("./", 0o711), file(".wh.w", ""), file("o/.wh..wh..opq", "")))
	top, res := apply(t, archive(t, file("home/u/.profile", "x"), file("w/new", "x"), file("o/p/q", "")))
	inherit(t, top, res, low, mid)
	if st := stat(t, top, FSDir, "home/u"); st.Mode&0o7777 != 0o700 || st.Uid != 1000 || st.Mtim.Nano() != when.UnixNano() {
		t.Errorf("home/u: mode %o uid %d", st.Mode, st.Uid)
	}
	for name, mode := range map[string]uint32{"w": 0o755, "o/p": 0o755, ".": 0o711} {
		if st := stat(t, top, FSDir, name); st.Mode&0o7777 != mode {
			t.Errorf("%s has mode %o, want %o", name, st.Mode&0o7777, mode)
		}
	}
}

func TestLimits(t *testing.T) {
	data := archive(t, file("a", strings.Repeat("x", 4000)), file("b", "y"), file("b", "z"))
	for _, l := range []Limits{{Bytes: 3000}, {Entries: 2}} {
		if _, err := Apply(t.Context(), filepath.Join(t.TempDir(), "l"), bytes.NewReader(data), l); err == nil || !strings.Contains(err.Error(), "bomb") {
			t.Errorf("%+v: %v", l, err)
		}
	}
}
