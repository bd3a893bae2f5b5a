package dirtree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// nest makes a chain of directories below dir, deeper than any path reaches, and
// gives a descriptor of the last one.
func nest(t *testing.T, dir string, depth int) (last int) {
	t.Helper()
	fd, err := openRoot(dir)
	for range depth {
		if err == nil {
			err = unix.Mkdirat(fd, "d", 0o755)
		}
		if err == nil {
			up := fd
			fd, err = openBelow(up, "d")
			unix.Close(up)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func write(t *testing.T, path string, size int) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, make([]byte, size), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func fdPath(fd int, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", fd, name) }

func measure(t *testing.T, dir string) Usage {
	t.Helper()
	u, err := Measure(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func gone(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", path, err)
	}
}

// usageByPath is the plain way to say the same of a small tree.
func usageByPath(t *testing.T, dir string) (u Usage) {
	t.Helper()
	seen := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err = errors.Join(err, unix.Lstat(p, &st)); err == nil && !seen[st.Ino] {
			seen[st.Ino] = true
			u.Bytes, u.Inodes = u.Bytes+uint64(st.Blocks)*512, u.Inodes+1
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// grow makes a tree of any shape, with links of both kinds and a FIFO.
func grow(t *testing.T, dir string, entries int) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, uint64(entries)))
	dirs, files := []string{dir}, []string{}
	for i := range entries {
		path := filepath.Join(dirs[r.IntN(len(dirs))], fmt.Sprintf("entry-%d", i))
		var err error
		switch k := r.IntN(10); {
		case k < 4:
			err = os.Mkdir(path, 0o755)
			dirs = append(dirs, path)
		case k < 5:
			err = os.Symlink("/", path)
		case k < 6:
			err = unix.Mkfifo(path, 0o644)
		case k < 7 && len(files) > 0:
			err = os.Link(files[r.IntN(len(files))], path)
		default:
			err = os.WriteFile(path, make([]byte, r.IntN(20_000)), 0o644)
			files = append(files, path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestTreesOfAnyShape(t *testing.T) {
	for _, entries := range []int{0, 1, 50, 2000} {
		dir := filepath.Join(t.TempDir(), "tree")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		grow(t, dir, entries)
		if got, want := measure(t, dir), usageByPath(t, dir); got != want {
			t.Errorf("%d entries: %+v, want %+v", entries, got, want)
		}
		if err := Remove(t.Context(), dir); err != nil {
			t.Error(err)
		}
		gone(t, dir)
	}
}

// What is kept of a level that was closed must lead to the rest of its listing.
func TestBranchesAtEveryLevel(t *testing.T) {
	const depth, each = 200, 3
	dir := t.TempDir()
	fd, err := openRoot(dir)
	for range depth {
		for i := range each {
			for _, name := range []string{fmt.Sprintf("a%d", i), fmt.Sprintf("z%d", i)} {
				err = errors.Join(err, unix.Mkdirat(fd, name, 0o755), os.WriteFile(fdPath(fd, name)+"/f", nil, 0o644))
			}
		}
		err = errors.Join(err, unix.Mkdirat(fd, "m", 0o755))
		up := fd
		fd, _ = openBelow(up, "m")
		unix.Close(up)
	}
	unix.Close(fd)
	if err != nil {
		t.Fatal(err)
	}
	if u := measure(t, dir); u.Inodes != 1+depth*(1+each*4) {
		t.Errorf("%d inodes, want %d", u.Inodes, 1+depth*(1+each*4))
	}
	if err := Remove(t.Context(), dir); err != nil {
		t.Error(err)
	}
	gone(t, dir)
}

func TestHardLinksCountOnce(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		write(t, filepath.Join(dir, fmt.Sprintf("f%d", i)), 12_000)
		for j := range 4 {
			if err := os.Link(filepath.Join(dir, fmt.Sprintf("f%d", i)), filepath.Join(dir, fmt.Sprintf("f%d-%d", i, j))); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := usageByPath(t, dir)
	// Few remembered, the others count by parts, which lose less than a byte each.
	for _, most := range []int{manyLinks, 3, 0} {
		fd, err := openRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		c := counter{links: map[fileID]uint64{}, manyLinks: most}
		if err := newWalk(&c).run(t.Context(), fd); err != nil {
			t.Fatal(err)
		}
		c.Inodes += (c.parts + 1<<31) >> 32
		if c.Inodes != want.Inodes || c.Bytes > want.Bytes || c.Bytes+250 < want.Bytes {
			t.Errorf("%d remembered: %+v, want %+v", most, c.Usage, want)
		}
		if most == manyLinks && len(c.links) != 0 {
			t.Errorf("%d files of which all names were seen are still remembered", len(c.links))
		}
	}
}

func TestRemoveOfOtherThanADirectory(t *testing.T) {
	dir := t.TempDir()
	kept := filepath.Join(dir, "kept")
	write(t, filepath.Join(kept, "f"), 1)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(kept, link); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	write(t, file, 1)
	for _, path := range []string{link, file, filepath.Join(dir, "none")} {
		if err := Remove(t.Context(), path); err != nil {
			t.Error(err)
		}
		gone(t, path)
	}
	if _, err := os.Stat(filepath.Join(kept, "f")); err != nil {
		t.Error(err)
	}
	if _, err := Measure(t.Context(), file); err == nil {
		t.Error("a file was measured as a tree")
	}
	if _, err := Measure(t.Context(), link); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
}

func TestEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a", "f"), 1)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := Measure(ctx, dir); !errors.Is(err, why) {
		t.Errorf("Measure: %v", err)
	}
	if err := Remove(ctx, dir); !errors.Is(err, why) {
		t.Errorf("Remove: %v", err)
	}
}

func TestLevelsComeBackInOrder(t *testing.T) {
	var s levels
	const n = 3*levelsPerPage + 1
	for round := range 2 {
		for i := range n {
			s.push(level{pos: int64(i)})
		}
		for i := range slices.Backward(make([]struct{}, n)) {
			if l := s.pop(); l.pos != int64(i) {
				t.Fatalf("round %d: level %d came back as %d", round, i, l.pos)
			}
		}
		if s.n != 0 || len(s.pages) != 0 {
			t.Fatalf("%d levels, %d pages are left", s.n, len(s.pages))
		}
	}
}
