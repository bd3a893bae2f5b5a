package openat2

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// open opens name from dir and returns what its file holds.
func open(t *testing.T, dir, name string, resolve uint64) (string, error) {
	t.Helper()
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	fd, err := Open(int(root.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, resolve)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, 100)
	n, err := unix.Read(fd, buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n]), nil
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestResolution(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	write(t, filepath.Join(dir, "file"), "outside")
	write(t, filepath.Join(root, "file"), "inside")
	write(t, filepath.Join(root, "a", "x"), "")
	if err := os.Symlink("../../../file", filepath.Join(root, "a", "link")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		resolve uint64
		want    string
		err     error
	}{
		{0, "outside", nil},
		{unix.RESOLVE_IN_ROOT, "inside", nil},
		{unix.RESOLVE_BENEATH, "", unix.EXDEV},
		{unix.RESOLVE_NO_SYMLINKS, "", unix.ELOOP},
	} {
		name := "a/link"
		if c.resolve == 0 { // the third .. leaves the test's directory
			name = "../file"
		}
		got, err := open(t, root, name, c.resolve)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("resolve %#x gives %q, %v, want %q, %v", c.resolve, got, err, c.want, c.err)
		}
	}
}

// While two programs do nothing but rename, opening goes on or ends with EAGAIN; it does
// not hang, and never leaves the root.
func TestAttackRenames(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "root", "file"), "inside")
	write(t, filepath.Join(dir, "root", "a", "b", "x"), "")
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for _, name := range []string{"1", "2"} {
		one, other := filepath.Join(dir, name), filepath.Join(dir, name+"-")
		write(t, one, "")
		busy.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_ = os.Rename(one, other)
				_ = os.Rename(other, one)
			}
		})
	}
	opened := 0
	for range 2000 {
		switch got, err := open(t, filepath.Join(dir, "root"), "a/b/../../../../file", unix.RESOLVE_IN_ROOT); {
		case err == nil && got == "inside":
			opened++
		case !errors.Is(err, unix.EAGAIN):
			t.Fatalf("got %q, %v, want the file inside or EAGAIN", got, err)
		}
	}
	close(stop)
	busy.Wait()
	if opened == 0 {
		t.Error("no open came through the renames")
	}
	t.Logf("%d of 2000 opens came through", opened)
}
