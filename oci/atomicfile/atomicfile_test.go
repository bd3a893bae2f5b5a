package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

type record struct {
	Version int    `json:"version"`
	Text    string `json:"text"`
}

func TestRoundTrip(t *testing.T) {
	for name, write := range map[string]func(string, any) error{"durable": Write, "ordered": WriteOrdered, "volatile": WriteVolatile} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "r.json")
			for i := range 3 {
				want := record{1, strconv.Itoa(i)}
				if err := write(path, want); err != nil {
					t.Fatal(err)
				}
				var got record
				if err := Read(path, &got); err != nil || got != want {
					t.Fatalf("got %+v, %v, want %+v", got, err, want)
				}
			}
			onlyEntry(t, path)
		})
	}
}

func TestReadErrors(t *testing.T) {
	dir := t.TempDir()
	var r record
	if err := Read(filepath.Join(dir, "none"), &r); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrUnreadable) {
		t.Errorf("missing: %v", err)
	}
	for _, text := range []string{"", "{", `{"version":"x"}`, "\x00\x00\x00"} {
		path := filepath.Join(dir, "bad")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Read(path, &r); !errors.Is(err, ErrUnreadable) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v", text, err)
		}
	}
	path := filepath.Join(dir, "newer")
	if err := os.WriteFile(path, []byte(`{"version":1,"unknown":{}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Read(path, &r); err != nil {
		t.Errorf("unknown field: %v", err)
	}
}

func TestWriteBytesPermissions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := WriteBytes(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Fatalf("%v, %v", info, err)
	}
}

func TestFailureLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := Write(filepath.Join(dir, "none", "f"), 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
	if err := Write(filepath.Join(dir, "f"), make(chan int)); err == nil {
		t.Error("a channel was encoded")
	}
	target := filepath.Join(dir, "d")
	if err := os.MkdirAll(filepath.Join(target, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(target, 1); err == nil {
		t.Error("a directory was replaced")
	}
	onlyEntry(t, target)
}

// TestReaderSeesWholeRecords has readers race a writer: each read must decode.
func TestReaderSeesWholeRecords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r")
	long := record{1, strings.Repeat("x", 100_000)}
	if err := WriteVolatile(path, long); err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var r record
				if err := Read(path, &r); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 200 {
		long.Version = i
		if err := WriteVolatile(path, long); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	readers.Wait()
	onlyEntry(t, path)
}

func onlyEntry(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(path) {
		t.Errorf("directory holds %v, %v", entries, err)
	}
}

// Another record's temporary is another writer's, also where one name begins with the
// other.
func TestDropCutOff(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	if err := DropCutOff(path); err != nil {
		t.Errorf("nothing to drop: %v", err)
	}
	names := map[string]bool{".tmp-a-1": false, ".tmp-a-22": false, ".tmp-ab-1": true, ".tmp-b-1": true, "a": true, "a-1": true}
	for name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := DropCutOff(path); err != nil {
		t.Fatal(err)
	}
	for name, stays := range names {
		if _, err := os.Lstat(filepath.Join(dir, name)); stays != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := DropCutOff(filepath.Join(dir, "none", "a")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}
