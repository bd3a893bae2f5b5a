package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/oci/idmap"
)

// stack makes n lower directories, topmost first, each with its own file and one
// they all have.
func stack(t *testing.T, base string, n int) (lower []string) {
	t.Helper()
	for i := range n {
		dir := filepath.Join(base, fmt.Sprintf("%064d", i), "fs")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{"all", fmt.Sprint("own", i)} {
			if err := os.WriteFile(filepath.Join(dir, f), []byte(fmt.Sprint(i)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		lower = append([]string{dir}, lower...)
	}
	return lower
}

func mounted(t *testing.T, c Config, mount func(Config) error) Config {
	t.Helper()
	for _, d := range []string{c.Target, c.Upper, c.Work} {
		if d != "" {
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := mount(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Unmount(c.Target); err != nil {
			t.Error(err)
		}
		if err := Unmount(c.Target); err != nil {
			t.Errorf("unmounting again: %v", err)
		}
	})
	return c
}

// oldMount is what happens on a kernel without the new interface.
func oldMount(c Config) error {
	lowers, done, err := c.openLowers()
	if err != nil {
		return err
	}
	defer done()
	return errors.Join(c.mountOld(lowers), detachSpots(c.Target))
}

// attachedFirst is what happens where overlayfs takes no descriptors.
func attachedFirst(c Config) error {
	lowers, done, err := c.openLowers()
	if err != nil {
		return err
	}
	defer done()
	for i := range lowers {
		if err := lowers[i].attach(spot(c.Target, i)); err != nil {
			return err
		}
		lowers[i].path, lowers[i].fd = spot(c.Target, i), -1
	}
	return errors.Join(c.mountNew(lowers), detachSpots(c.Target))
}

// TestMount mounts 200 layers through both interfaces of the kernel.
func TestMount(t *testing.T) {
	for n, mount := range map[string]func(Config) error{
		"new": Mount,
		"old": oldMount,
	} {
		t.Run(n, func(t *testing.T) {
			base := t.TempDir()
			c := mounted(t, Config{
				Lower: stack(t, base, 200), Target: base + "/view", Upper: base + "/up", Work: base + "/work",
				Links: base,
			}, mount)
			data, err := os.ReadFile(c.Target + "/all")
			if err != nil || string(data) != "199" {
				t.Errorf("the file of all layers is %q, %v, want the topmost layer's 199", data, err)
			}
			if _, err := os.Stat(c.Target + "/own0"); err != nil {
				t.Error(err)
			}
			if err := os.Remove(c.Target + "/own7"); err != nil {
				t.Error(err)
			}
			left, _ := filepath.Glob(base + "/l*")
			if len(left) != 0 {
				t.Errorf("%v is left, want no short links", left)
			}
		})
	}
}

// TestVolatileAgain mounts an upper directory a second time, which overlayfs refuses
// by itself.
func TestVolatileAgain(t *testing.T) {
	base := t.TempDir()
	c := Config{Lower: stack(t, base, 1), Target: base + "/view", Upper: base + "/up", Work: base + "/work"}
	mounted(t, c, Mount)
	if err := os.WriteFile(c.Target+"/new", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Unmount(c.Target); err != nil {
		t.Fatal(err)
	}
	mounted(t, c, Mount)
	if _, err := os.Stat(c.Target + "/new"); err != nil {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	base := t.TempDir()
	if err := os.Mkdir(base+"/t", 0o755); err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]Config{
		"no lower": {Target: base + "/t"},
		"absent":   {Lower: []string{base + "/absent", base}, Target: base + "/t"},
		"wrongopt": {Lower: stack(t, base, 2), Target: base + "/t", extra: []string{"wrongopt=1"}},
		"/nowhere": {Lower: stack(t, base, 2), Target: base + "/nowhere"},
	} {
		if err := Mount(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Mount(%+v) = %v, want an error with %q", c, err, want)
		}
	}
}

// TestOrder: of layers with the same file the topmost decides, whiteouts and opaque
// directories hide what is below, and a layer above such a directory adds to it.
func TestOrder(t *testing.T) {
	for n, mount := range map[string]func(Config) error{"new": Mount, "old": oldMount} {
		t.Run(n, func(t *testing.T) {
			base := t.TempDir()
			lower := stack(t, base, 3) // topmost first
			for _, f := range []string{"/dir/low", "/dir/mid", "/gone"} {
				write(t, lower[2]+f)
			}
			write(t, lower[1]+"/dir/mid")
			if err := unix.Setxattr(lower[1]+"/dir", "trusted.overlay.opaque", []byte("y"), 0); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mknod(lower[1]+"/gone", unix.S_IFCHR, 0); err != nil {
				t.Fatal(err)
			}
			write(t, lower[0]+"/dir/top")
			c := mounted(t, Config{Lower: lower, Target: base + "/view", Links: base}, mount)
			for dir, want := range map[string][]string{"/": {"all", "dir", "own0", "own1", "own2"}, "/dir": {"mid", "top"}} {
				var got []string
				entries, err := os.ReadDir(c.Target + dir)
				for _, e := range entries {
					got = append(got, e.Name())
				}
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("%s has %v, %v, want %v", dir, got, err, want)
				}
			}
			if data, err := os.ReadFile(c.Target + "/all"); err != nil || string(data) != "2" {
				t.Errorf("the file of all layers is %q, %v, want the topmost layer's 2", data, err)
			}
		})
	}
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestReadOnly: without an upper directory nothing can be written, so that the layers of an
// image volume stay as they are.
func TestReadOnly(t *testing.T) {
	for n, mount := range map[string]func(Config) error{"new": Mount, "old": oldMount} {
		base := t.TempDir()
		c := mounted(t, Config{Lower: stack(t, base, 2), Target: base + "/view", Links: base}, mount)
		if err := os.WriteFile(c.Target+"/all", []byte("x"), 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: writing to a mount without upper directory: %v, want EROFS", n, err)
		}
	}
}

// TestLayersStay: what a container writes, renames and removes is in the upper directory,
// and a hard link to a file of a layer becomes a file of its own when it is written to.
func TestLayersStay(t *testing.T) {
	base := t.TempDir()
	lower := stack(t, base, 2)
	if err := os.Link(lower[0]+"/all", lower[0]+"/same"); err != nil {
		t.Fatal(err)
	}
	c := mounted(t, Config{Lower: lower, Target: base + "/view", Upper: base + "/up", Work: base + "/work"}, Mount)
	if err := errors.Join(os.WriteFile(c.Target+"/all", []byte("changed"), 0o644), os.Remove(c.Target+"/own0"), os.Mkdir(c.Target+"/own0", 0o700)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		c.Target + "/same": "1", lower[0] + "/all": "1", c.Upper + "/all": "changed", lower[1] + "/own0": "0",
	} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v, want %q", strings.TrimPrefix(path, base), got, err, want)
		}
	}
}

// TestTooManyLayers: the kernel takes 500, and its refusal leaves nothing behind.
func TestTooManyLayers(t *testing.T) {
	for n, mount := range map[string]func(Config) error{"new": Mount, "old": oldMount} {
		base := t.TempDir()
		target := base + "/view"
		if err := os.Mkdir(target, 0o755); err != nil {
			t.Fatal(err)
		}
		lower := stack(t, base, 501)
		if err := mount(Config{Lower: lower, Target: target, Links: base}); err == nil {
			t.Errorf("%s: 501 layers were mounted", n)
		}
		if left, _ := filepath.Glob(base + "/[lv]*"); len(left) != 1 {
			t.Errorf("%s: %v is left, want the target alone", n, left)
		}
		if err := mount(Config{Lower: lower[1:], Target: target, Links: base}); err != nil {
			t.Errorf("%s: 500 layers: %v", n, err)
		}
		if err := Unmount(target); err != nil {
			t.Error(err)
		}
	}
}

// TestWorkingDirectoryStays: mount(2) needs a working directory of its own, which must be
// that of one thread only.
func TestWorkingDirectoryStays(t *testing.T) {
	before, err := os.Readlink("/proc/self/cwd")
	if err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	mounted(t, Config{Lower: stack(t, base, 3), Target: base + "/view", Links: base}, oldMount)
	threads, err := filepath.Glob("/proc/self/task/*/cwd")
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads %v, %v", threads, err)
	}
	for _, thread := range threads {
		if after, err := os.Readlink(thread); err == nil && after != before { // an error: it has ended
			t.Errorf("%s is %s, want %s", thread, after, before)
		}
	}
}

func TestUserNS(t *testing.T) {
	ns, err := NewUserNS([]idmap.Map{{ContainerID: 0, HostID: 200000, Size: 1000}}, []idmap.Map{{ContainerID: 0, HostID: 300000, Size: 1000}})
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	for n, mount := range map[string]func(Config) error{"new": Mount, "by path": attachedFirst, "old": oldMount} {
		base := t.TempDir()
		c := mounted(t, Config{Lower: stack(t, base, 60), Target: base + "/view", UserNS: ns, Links: base}, mount)
		var st unix.Stat_t
		if err := unix.Stat(c.Target+"/all", &st); err != nil || st.Uid != 200000 || st.Gid != 300000 {
			t.Errorf("%s: a file of root belongs to %d:%d, %v, want 200000:300000", n, st.Uid, st.Gid, err)
		}
		if left, _ := filepath.Glob(base + "/[lv]*"); len(left) != 1 {
			t.Errorf("%s: %v is left, want the target alone", n, left)
		}
	}
}

// TestCrashedMount: what a mount that did not finish left goes with Unmount, and the
// layers stay.
func TestCrashedMount(t *testing.T) {
	ns, err := NewUserNS([]idmap.Map{{ContainerID: 0, HostID: 200000, Size: 1000}}, []idmap.Map{{ContainerID: 0, HostID: 300000, Size: 1000}})
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	base := t.TempDir()
	c := Config{Lower: stack(t, base, 3), Target: base + "/view", UserNS: ns}
	lowers, done, err := c.openLowers()
	if err != nil {
		t.Fatal(err)
	}
	for i := range lowers {
		if err := lowers[i].attach(spot(c.Target, i)); err != nil {
			t.Fatal(err)
		}
	}
	done()
	if err := Unmount(c.Target); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(base + "/v*"); len(left) != 0 {
		t.Errorf("%v is left, want neither the target nor clones", left)
	}
	if _, err := os.Stat(c.Lower[0] + "/all"); err != nil {
		t.Error(err)
	}
}
