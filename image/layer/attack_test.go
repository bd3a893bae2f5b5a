package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// unpack gives Apply's error.
func unpack(t testing.TB, l Limits, data []byte) error {
	t.Helper()
	_, err := Apply(t.Context(), filepath.Join(t.TempDir(), "layer"), bytes.NewReader(data), l)
	return err
}

// A layer of a few entries makes millions of directories, which its paths only imply
// and no limit counts: 22 KB of image took 1.7 million inodes.
func TestAttackImpliedDirectories(t *testing.T) {
	var ents []ent
	for i := range 10 {
		ents = append(ents, file(fmt.Sprint(i)+strings.Repeat("/a", 200), ""))
	}
	data := archive(t, ents...)
	if err := unpack(t, Limits{Entries: 1000}, data); !errors.Is(err, ErrArchive) || !strings.Contains(err.Error(), "imply") {
		t.Errorf("2010 entries where 1000 are allowed: %v", err)
	}
	if err := unpack(t, Limits{Entries: 2010}, data); err != nil {
		t.Errorf("2010 entries where as many are allowed: %v", err)
	}
}

// A layer nests directories so deep that whatever goes through the tree later needs a
// stack frame and a descriptor for each of thousands of levels.
func TestAttackDeepPath(t *testing.T) {
	half := strings.Repeat("d/", maxDepth/2)
	for name, data := range map[string][]byte{
		"implied":      archive(t, file(strings.Repeat("d/", 1740)+"f", "")),
		"one too many": archive(t, file(strings.Repeat("d/", maxDepth)+"f", "")),
		"by links":     archive(t, file(half+"f", ""), symlink("l", half), file("l/"+half+"l2/f", ""), file("l/"+half+"l2/g/f", "")),
		"described":    archive(t, file(strings.Repeat("d/", maxDepth-1)+"f", ""), folder(strings.Repeat("d/", maxDepth)+"x", 0o755)),
	} {
		if err := unpack(t, Limits{}, data); !errors.Is(err, errDepth) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := unpack(t, Limits{}, archive(t, file(strings.Repeat("d/", maxDepth-1)+"f", ""))); err != nil {
		t.Errorf("as deep as is allowed: %v", err)
	}
}

// impliedChains is a layer of n paths, each of which implies 250 directories.
func impliedChains(t testing.TB, n int) []byte {
	var ents []ent
	for i := range n {
		ents = append(ents, file(fmt.Sprint(i)+strings.Repeat("/a", 249)+"/f", ""))
	}
	return archive(t, ents...)
}

// A layer whose implied directories lie deep costs the square of the depth, per
// directory and layer below, to complete: 363 bytes took five minutes.
func TestAttackImpliedDepthSquared(t *testing.T) {
	data := impliedChains(t, 40)
	low, _ := apply(t, data)
	mid, _ := apply(t, archive(t, file("x", "")))
	top, res := apply(t, data)
	start := time.Now()
	inherit(t, top, res, low, mid, mid, mid, mid)
	if d := time.Since(start); d > 20*time.Second { // took minutes, takes half a second
		t.Errorf("%d directories took %v", res.Implied, d)
	}
}

// The client of a pull gives up, or the daemon is told to end, while a layer is being
// completed: the work used to go on regardless.
func TestAttackWorkOutlivesItsClient(t *testing.T) {
	data := impliedChains(t, 4)
	low, _ := apply(t, data)
	top, res := apply(t, data)
	var b Below
	defer b.Close()
	if err := b.Push(low); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Inherit(ctx, top, res, &b); !errors.Is(err, context.Canceled) {
		t.Errorf("inherit: %v", err)
	}
	if _, err := Inherit(t.Context(), top, res, &b); err != nil {
		t.Errorf("inherit, called again: %v", err)
	}
	if _, err := Verify(ctx, top, "sha256:"+"00"); !errors.Is(err, context.Canceled) {
		t.Errorf("verify: %v", err)
	}
	if _, err := Apply(ctx, filepath.Join(t.TempDir(), "l"), bytes.NewReader(data), Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("apply: %v", err)
	}
}

// A layer's implied directories are missing in each of many layers below, so that all
// of them have to be looked through for every one.
func TestAttackImpliedTimesLayers(t *testing.T) {
	var b Below
	defer b.Close()
	base := archive(t, file("a/f", ""))
	for range 400 {
		dir, _ := apply(t, base)
		if err := b.Push(dir); err != nil {
			t.Fatal(err)
		}
	}
	own := filepath.Join(t.TempDir(), "own")
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(own, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := openRoot(own)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	in := inheritor{ctx: t.Context(), own: fd, below: b.roots, left: 100_000}
	if err := in.begin(); err != nil {
		t.Fatal(err)
	}
	for i := range 100_000 {
		name := fmt.Sprintf("a/%d", i)
		if err := os.Mkdir(filepath.Join(own, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := in.inherit(name); errors.Is(err, ErrArchive) {
			if i < 200 || i > 300 {
				t.Errorf("given up after %d directories", i)
			}
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("there is no end to it")
}

// A layer makes each of its paths lead through forty links whose targets go back and
// forth a thousand times: a megabyte of such entries keeps the kernel busy for hours.
func TestAttackLinkMaze(t *testing.T) {
	target := func(to string) string { return strings.Repeat("d/../", 810) + to }
	ents := []ent{folder("d", 0o755)}
	for i := range maxLinks - 2 {
		ents = append(ents, symlink(fmt.Sprintf("l%d", i), target(fmt.Sprintf("l%d", i+1))))
	}
	ents = append(ents, symlink(fmt.Sprintf("l%d", maxLinks-2), "d"))
	for i := range 2000 {
		ents = append(ents, file(fmt.Sprintf("l0/%d/f", i), ""))
	}
	if err := unpack(t, Limits{}, archive(t, ents...)); !errors.Is(err, ErrArchive) || !strings.Contains(err.Error(), "links") {
		t.Errorf("%v", err)
	}
}

// A sparse file of a kilobyte stands for gigabytes of holes, which have to be filled in.
func TestAttackSparseHoles(t *testing.T) {
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "s"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(src, "s"), 63<<30); err != nil {
		t.Fatal(err)
	}
	data := run(t, "tar", "-C", src, "--sparse", "--format=gnu", "-cf", "-", "s")
	if err := unpack(t, Limits{Bytes: 1 << 30}, data); !errors.Is(err, ErrArchive) {
		t.Errorf("63 GiB of holes where 1 GiB is allowed: %v", err)
	}
}

// An archive replaces thousands of its own files, so that finding where any content
// went means comparing its name with all of theirs.
func TestAttackReplacedTimesFiles(t *testing.T) {
	s := assembler{moved: map[string][]move{}}
	prefix := strings.Repeat("n", 150)
	for i := range 20_000 {
		p := fmt.Sprintf("%s/%d", prefix, i)
		s.moved[p] = append(s.moved[p], move{seq: 10_000_000 + i, number: int64(i)})
	}
	start := time.Now()
	for i := range 1_000_000 {
		if got := s.locate(i, prefix+"/x/y"); got != FSDir+"/"+prefix+"/x/y" {
			t.Fatal(got)
		}
	}
	if got := s.locate(1, prefix+"/77/y"); got != shadowsDir+"/77/y" {
		t.Error(got)
	}
	if d := time.Since(start); d > 20*time.Second { // took minutes, takes less than a second
		t.Errorf("a million look-ups took %v", d)
	}
	ents := []ent{}
	long := strings.Repeat(strings.Repeat("n", 250)+"/", 12)
	for range 2000 {
		ents = append(ents, file(long+"f", "x"))
	}
	if err := unpack(t, Limits{}, archive(t, ents...)); !errors.Is(err, ErrArchive) {
		t.Errorf("six megabytes of names of replaced files: %v", err)
	}
}

// An entry has a name, or a link a target, of a megabyte (a PAX record can), which is
// copied by everything that looks at it.
func TestAttackLongNames(t *testing.T) {
	long := strings.Repeat("./", 500_000)
	for name, e := range map[string]ent{
		"name": file(long+"f", ""), "symlink": symlink("s", long), "hard link": link("h", long+"f"),
	} {
		if err := unpack(t, Limits{}, archive(t, file("f", ""), e)); !errors.Is(err, ErrArchive) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An archive consists of PAX headers that describe no entry, or of attributes larger
// than any file system keeps.
func TestAttackPAXHeaders(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for range 50 {
		h := tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"BERTH.x": strings.Repeat("x", 900_000)}}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unpack(t, Limits{Bytes: 8 << 20}, b.Bytes()); !errors.Is(err, ErrArchive) {
		t.Errorf("45 MB of headers where 8 are allowed: %v", err)
	}
	if err := unpack(t, Limits{Entries: 10}, b.Bytes()); !errors.Is(err, ErrArchive) {
		t.Errorf("50 headers where 10 are allowed: %v", err)
	}
	x := ent{tar.Header{Name: "x", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 200_000)}}, ""}
	if err := unpack(t, Limits{}, archive(t, x)); !errors.Is(err, ErrArchive) {
		t.Errorf("an attribute of 200 kB: %v", err)
	}
}

// Without openat2 (an older kernel, a seccomp profile) paths are walked by hand, and
// lead out of the layer no more than with it.
func TestAttackPathsWithoutOpenat2(t *testing.T) {
	noOpenat2.Store(true)
	defer noOpenat2.Store(false)
	for name, data := range hostile(t) {
		t.Run(name, func(t *testing.T) { harmless(t, data) })
	}
	TestReplaced(t)
	TestInherit(t)
}
