package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
				t.Errorf("%q %v", data, err)
			}
			if _, err := os.Stat(c.Target + "/own0"); err != nil {
				t.Error(err)
			}
			if err := os.Remove(c.Target + "/own7"); err != nil {
				t.Error(err)
			}
			left, _ := filepath.Glob(base + "/l*")
			if len(left) != 0 {
				t.Errorf("left %v", left)
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
			t.Errorf("%s: %v", want, err)
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
			t.Errorf("%s: %d:%d %v", n, st.Uid, st.Gid, err)
		}
		if left, _ := filepath.Glob(base + "/[lv]*"); len(left) != 1 {
			t.Errorf("%s: left %v", n, left)
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
		t.Errorf("left %v", left)
	}
	if _, err := os.Stat(c.Lower[0] + "/all"); err != nil {
		t.Error(err)
	}
}
