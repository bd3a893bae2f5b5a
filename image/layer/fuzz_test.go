package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"berth/oci/dirtree"
)

// hostile are archives that try to get out, or to get in the unpacker's way.
func hostile(t testing.TB) map[string][]byte {
	node := func(name string, kind byte, major, minor int64) ent {
		return ent{tar.Header{Name: name, Typeflag: kind, Mode: 0o666, Devmajor: major, Devminor: minor}, ""}
	}
	deep := strings.Repeat("d/", 1500)
	return map[string][]byte{
		"dotdot":            archive(t, file("../../outside/hit", "x"), file("a/../../../outside/hit", "x")),
		"absolute":          archive(t, file("/outside/hit", "x"), file("//outside//hit", "x")),
		"link out":          archive(t, symlink("l", "../../outside"), file("l/hit", "x")),
		"absolute link out": archive(t, symlink("l", "/"), file("l/outside/hit", "x")),
		"link chain":        archive(t, symlink("a", ".."), symlink("b", "a/.."), symlink("c", "b/../.."), file("c/outside/hit", "x")),
		"link replaced":     archive(t, folder("d", 0o755), file("d/f", "x"), symlink("d", "../../outside"), file("d/hit", "x")),
		"file through link": archive(t, symlink("f", "../../outside/secret"), file("f", "x")),
		"hardlink out":      archive(t, link("h", "../../outside/secret"), file("h", "x")),
		"hardlink via link": archive(t, symlink("l", "../../outside"), link("h", "l/secret"), file("h", "x")),
		"whiteout out":      archive(t, symlink("l", "../../outside"), file("l/.wh.secret", "")),
		"opaque out":        archive(t, symlink("l", "../../outside"), file("l/.wh..wh..opq", "")),
		"whiteout dotdot":   archive(t, file("a/.wh...", "")),
		"mode through link": archive(t, symlink("l", "../../outside"), ent{tar.Header{Name: "l", Typeflag: tar.TypeDir, Mode: 0o7777, Uid: 7}, ""}),
		"root replaced":     archive(t, symlink(".", "x"), file("..", "y")),
		"root link":         archive(t, symlink(".", "/"), file("outside/hit", "x")),
		"link loop":         archive(t, symlink("a", "b"), symlink("b", "a"), file("a/x", "x")),
		"self link":         archive(t, symlink("a", "a"), link("b", "b"), file("a/x", "x")),
		"dir in its link":   archive(t, folder("d", 0o755), symlink("d/up", ".."), file("d/up/d", "x"), file("d/up/d/y", "x")),
		"deep":              archive(t, file(deep+"f", "x")),
		"deeper":            archive(t, file(deep+"f", "x"), symlink("l", strings.Repeat("d/", 1500)), file("l/"+deep+"f", "x")),
		"long name":         archive(t, file(strings.Repeat("n", 300), "x")),
		"devices":           archive(t, node("sda", tar.TypeBlock, 8, 0), node("mem", tar.TypeChar, 1, 1), node("zero", tar.TypeChar, 0, 0), file("sda", "x"), file("zero/x", "x")),
		"huge sparse":       archive(t, ent{tar.Header{Name: "s", Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: map[string]string{"BERTH.x": "y"}}, "x"}),
		"xattrs":            archive(t, ent{tar.Header{Name: "x", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.": "z", "SCHILY.xattr.security.selinux": "w"}}, ""}),
		"dir is parent":     archive(t, file("a/b/c", "x"), link("a", "a/b/c"), link("a/b", "a/b/c")),
	}
}

// harmless unpacks data and checks that the world outside did not change.
func harmless(t *testing.T, data []byte) {
	base := t.TempDir()
	outside := filepath.Join(base, "outside")
	if err := os.Mkdir(outside, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o640); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(base, "layer")
	_, err := Apply(t.Context(), dir, bytes.NewReader(data), Limits{Bytes: 16 << 20, Entries: 1000, Replaced: 100})
	if err == nil {
		var back bytes.Buffer
		if err := Assemble(dir, &back); err != nil || !bytes.Equal(back.Bytes(), data) {
			t.Errorf("an archive of %d bytes came back with %d: %v", len(data), back.Len(), err)
		}
	}
	entries, _ := os.ReadDir(outside)
	st, serr := os.Stat(outside)
	secret, rerr := os.ReadFile(filepath.Join(outside, "secret"))
	if len(entries) != 1 || serr != nil || st.Mode().Perm() != 0o750 || rerr != nil || string(secret) != "secret" {
		t.Fatalf("the world outside has changed: %v %v %v", entries, st, rerr)
	}
	if all, _ := os.ReadDir(base); len(all) > 2 {
		t.Fatalf("the world outside has changed: %v", all)
	}
	if _, err := dirtree.Measure(t.Context(), dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Errorf("usage: %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Errorf("can't be removed again: %v", err)
	}
}

func TestHostile(t *testing.T) {
	for name, data := range hostile(t) {
		t.Run(name, func(t *testing.T) { harmless(t, data) })
	}
}

func FuzzApply(f *testing.F) {
	for name, data := range hostile(f) {
		if !strings.HasPrefix(name, "deep") { // too slow to be mutated
			f.Add(data)
		}
	}
	f.Add(archive(f, file("a", "b"), file("a", "c"), folder("a", 0o755)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < 1<<20 {
			harmless(t, data)
		}
	})
}

// TestBomb has a small blob become a large layer.
func TestBomb(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(w, zeros{}, 1<<30); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	r, err := Decompress(t.Context(), &b)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_, err = Apply(t.Context(), filepath.Join(t.TempDir(), "l"), r, Limits{Bytes: 10 << 20})
	if !errors.Is(err, ErrArchive) {
		t.Errorf("got %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func FuzzDecompress(f *testing.F) {
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0})
	f.Add([]byte("BZh9"))
	z, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(z.EncodeAll([]byte("hello\n"), nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decompress(t.Context(), bytes.NewReader(data))
		if err != nil {
			return
		}
		io.CopyN(io.Discard, r, 8<<20)
		r.Close()
	})
}

func FuzzJournal(f *testing.F) {
	dir := filepath.Join(f.TempDir(), "l")
	if _, err := Apply(f.Context(), dir, bytes.NewReader(archive(f, file("a", "b"), file("a", "c"))), Limits{}); err != nil {
		f.Fatal(err)
	}
	j, err := os.ReadFile(filepath.Join(dir, journal))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(j)
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := makeDirs(filepath.Join(dir, FSDir), filepath.Join(dir, shadowsDir)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, journal), data, 0o600); err != nil {
			t.Fatal(err)
		}
		Assemble(dir, &limited{n: 8 << 20})
	})
}

type limited struct{ n int }

func (l *limited) Write(p []byte) (int, error) {
	if l.n -= len(p); l.n < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}
