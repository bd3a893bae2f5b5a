package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKeyedText(t *testing.T) {
	text := keyedText("rss 5\ntotal_rss 7\nx rss 9\nbad y\nlast 3")
	for key, want := range map[string]uint64{"rss": 5, "total_rss": 7, "x": 0, "bad": 0, "last": 3, "ss": 0, "": 0} {
		if n := text.at(key); n != want {
			t.Errorf("%q is %d, not %d", key, n, want)
		}
	}
	if _, ok := keyedText("").get("a"); ok {
		t.Error("an empty text has a value")
	}
}

// TestKeptFile reads a file that changes, one that is replaced as a cgroup made anew is, and one
// that is gone, and counts descriptors.
func TestKeptFile(t *testing.T) {
	before := keptCount.Load()
	dir := cgroupFiles(t, map[string]string{"memory.current": "1\n"})
	path, key := filepath.Join(dir, "memory.current"), fileKey{"", "memory.current"}
	var k keptFiles
	read := func(want string) {
		t.Helper()
		if got := k.text(key, path); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	read("1\n")
	if n := keptCount.Load() - before; n != 1 {
		t.Fatalf("%d files are kept", n)
	}
	if err := os.WriteFile(path, []byte("22\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	read("22\n")
	// A descriptor whose file can't be read any more, as that of a removed cgroup.
	gone, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	k.replace(key, gone)
	read("22\n")
	k.replace(key, -1)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	read("")
	if n := keptCount.Load() - before; n != 0 {
		t.Errorf("%d files are kept of a cgroup that is gone", n)
	}
	k.close()
	if err := os.WriteFile(path, []byte("3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	read("3\n")
	if n := keptCount.Load() - before; n != 0 {
		t.Errorf("%d files are kept after the end", n)
	}
}

// TestKeptFilesAreBounded has no room left: files are read all the same.
func TestKeptFilesAreBounded(t *testing.T) {
	room := mostKept() - keptCount.Load()
	keptCount.Add(room)
	defer keptCount.Add(-room)
	dir := cgroupFiles(t, map[string]string{"memory.current": "1\n"})
	var k keptFiles
	if got := k.text(fileKey{"", "memory.current"}, filepath.Join(dir, "memory.current")); got != "1\n" || len(k.fds) != 0 {
		t.Errorf("%q, %d kept", got, len(k.fds))
	}
}

// TestLongFile reads one that is longer than a buffer.
func TestLongFile(t *testing.T) {
	long := make([]byte, 40<<10)
	for i := range long {
		long[i] = byte('a' + i%26)
	}
	dir := cgroupFiles(t, map[string]string{"memory.stat": string(long)})
	var k keptFiles
	defer k.close()
	path := filepath.Join(dir, "memory.stat")
	if k.text(fileKey{"", "memory.stat"}, path) != string(long) || readText(path) != string(long) {
		t.Error("a part is missing")
	}
}
