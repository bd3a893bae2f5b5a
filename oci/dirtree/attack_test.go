package dirtree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/test/fewfiles"
)

// tmpfs mounts a file system of its own for a tree of so many inodes.
func tmpfs(t *testing.T, inodes int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("nr_inodes=%d,mode=700", inodes)); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// squeeze leaves the test little stack and few descriptors.
func squeeze(t *testing.T) {
	t.Helper()
	t.Cleanup(fewfiles.Limit(t, os.Getpid(), 64))
	stack := debug.SetMaxStack(1 << 20)
	t.Cleanup(func() { debug.SetMaxStack(stack) })
}

// A container nests directories by the ten thousand, with BERTH_SOAK=1 three
// million, to overflow the stack of whoever measures them and to use up the
// descriptors of whoever removes them.
func TestAttackDeepTree(t *testing.T) {
	depth := 40_000
	if os.Getenv("BERTH_SOAK") != "" {
		depth = 3_000_000
	}
	dir := filepath.Join(tmpfs(t, depth+1000), "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	last := nest(t, dir, depth)
	if err := os.WriteFile(fdPath(last, "bottom"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	unix.Close(last)
	squeeze(t)
	begin := time.Now()
	if u := measure(t, dir); u.Inodes != uint64(depth)+2 || u.Bytes < 1<<20 {
		t.Errorf("measured as %+v, want %d inodes and the file at the bottom", u, depth+2)
	}
	measured := time.Now()
	if err := Remove(t.Context(), dir); err != nil {
		t.Error(err)
	}
	gone(t, dir)
	t.Logf("%d levels: measured in %v, removed in %v", depth, measured.Sub(begin), time.Since(measured))
}

// A container nests deeper than a removal can keep in mind, wide at the bottom, so
// that each branch down there would cost the whole way.
func TestAttackDeeperThanTheWalkRemembers(t *testing.T) {
	const depth, wide = 1500, 100
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	last := nest(t, dir, depth)
	for i := range wide {
		if err := os.MkdirAll(fdPath(last, fmt.Sprintf("b%d/c/d", i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	unix.Close(last)
	fd, err := openRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	c := counter{links: map[fileID]uint64{}}
	w := newWalk(&c)
	w.limit = 100
	if err := w.run(t.Context(), fd); err != nil || c.Inodes < 100 || c.Inodes > 200 {
		t.Errorf("%d inodes, %v: want those the walk can reach", c.Inodes, err)
	}
	r := remover{limit: 100}
	for range 100 { // what Remove does
		if fd, err = openRoot(dir); err == nil {
			err = r.empty(t.Context(), fd)
		}
		if err != nil {
			t.Fatal(err)
		}
		if unix.Rmdir(dir) == nil {
			break
		}
	}
	gone(t, dir)
	if most := uint64(2 * depth / 50); r.moved > most {
		t.Errorf("subtrees were moved up %d times, want at most %d", r.moved, most)
	}
}

// A container fills one directory with so many names that a list of them fills the
// daemon's memory.
func TestAttackWideDirectory(t *testing.T) {
	const files, dirs = 60_000, 5_000
	dir := filepath.Join(tmpfs(t, files+2*dirs+1000), "tree")
	fd := -1
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		fd, err = openRoot(dir)
	}
	for i := range files {
		if err == nil {
			err = unix.Mknodat(fd, fmt.Sprintf("%s-%d", strings.Repeat("n", 200), i), unix.S_IFREG|0o644, 0)
		}
	}
	for i := range dirs {
		if err == nil {
			err = errors.Join(unix.Mkdirat(fd, fmt.Sprintf("d%d", i), 0o755), unix.Mknodat(fd, fmt.Sprintf("d%d/f", i), unix.S_IFREG|0o644, 0))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	var u Usage
	heap := heapGrowth(t, func() { u = measure(t, dir) })
	if u.Inodes != 1+files+2*dirs {
		t.Errorf("%d inodes, want %d", u.Inodes, 1+files+2*dirs)
	}
	heap = max(heap, heapGrowth(t, func() {
		if err := Remove(t.Context(), dir); err != nil {
			t.Error(err)
		}
	}))
	gone(t, dir)
	if heap > 8<<20 {
		t.Errorf("%d MiB of memory for %d names", heap>>20, files+dirs)
	}
}

// A container swaps the directories of its tree with links to the host and with
// each other, all the time, so that a walk or a removal leaves the tree.
func TestAttackTreeThatChangesMeanwhile(t *testing.T) {
	top := t.TempDir()
	host := filepath.Join(top, "host")
	for i := range 100 {
		write(t, filepath.Join(host, fmt.Sprintf("secret-%d", i), "f"), 1)
	}
	dir := filepath.Join(top, "tree")
	for i := range 60 {
		write(t, filepath.Join(dir, strings.Repeat("d/", i)+"f"), 1)
	}
	outside := filepath.Join(top, "outside") // where a removed directory lies meanwhile, as overlayfs does it
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			at := filepath.Join(dir, strings.Repeat("d/", 1+i%50), "d")
			_ = os.Rename(at, filepath.Join(outside, "d")) // any of these may lose a race
			_ = os.Symlink(host, at)
			_ = os.Remove(at)
			_ = os.Rename(filepath.Join(outside, "d"), at)
		}
	}()
	for range 300 {
		if u, err := Measure(t.Context(), dir); err != nil || u.Inodes > 2*121 {
			t.Fatalf("%+v, %v: want at most the tree, some of it twice", u, err)
		}
	}
	for range 300 { // it may lose as well, with an error
		if err := Remove(t.Context(), dir); err == nil {
			break
		}
	}
	close(stop)
	<-stopped
	if u := measure(t, host); u.Inodes != 201 {
		t.Errorf("%d inodes are left of the host's 201", u.Inodes)
	}
}

// A mount that could not be undone lies in a tree: what is behind it is not the
// container's to be deleted.
func TestAttackRemovalThroughAMount(t *testing.T) {
	dir := t.TempDir()
	precious, at := filepath.Join(dir, "precious"), filepath.Join(dir, "tree", "a", "mnt")
	write(t, filepath.Join(precious, "d", "f"), 1<<20)
	write(t, filepath.Join(at, "below"), 1)
	if err := unix.Mount(precious, at, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("mount: %v", err)
	}
	defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
	tree := filepath.Join(dir, "tree")
	if u := measure(t, tree); u.Inodes != 2 || u.Bytes >= 1<<20 {
		t.Errorf("%+v: what is mounted was counted", u)
	}
	if err := Remove(t.Context(), tree); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), at) {
		t.Errorf("%v, want EBUSY that names %s", err, at)
	}
	if _, err := os.Stat(filepath.Join(precious, "d", "f")); err != nil {
		t.Error(err)
	}
	if err := unix.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	if err := Remove(t.Context(), tree); err != nil {
		t.Error(err)
	}
	gone(t, tree)
}

// A privileged container marks a file immutable, so that its removal fails and
// nobody knows where.
func TestAttackImmutableFile(t *testing.T) {
	const immutable = 0x10 // FS_IMMUTABLE_FL
	dir := t.TempDir()
	file := filepath.Join(dir, "tree", "a", "b", "stone")
	write(t, file, 1)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, immutable); err != nil {
		t.Skipf("this file system has no immutable files: %v", err)
	}
	if err := Remove(t.Context(), filepath.Join(dir, "tree")); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), file) {
		t.Errorf("%v, want EPERM that names %s", err, file)
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0); err != nil {
		t.Fatal(err)
	}
	if err := Remove(t.Context(), filepath.Join(dir, "tree")); err != nil {
		t.Error(err)
	}
}

// heapGrowth is how much more memory the process took from the kernel for do.
func heapGrowth(t *testing.T, do func()) uint64 {
	t.Helper()
	var before, after runtime.MemStats
	debug.FreeOSMemory()
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	had := before.Sys - before.HeapReleased
	return max(had, after.Sys-after.HeapReleased) - had
}
