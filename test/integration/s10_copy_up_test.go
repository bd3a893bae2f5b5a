package integration

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/test/registry"
)

const bigFile = 8 << 20

// S10: changes of what the image has. The cost of copying up is in the writable
// layer's usage, what is deleted is hidden by a whiteout, and the image is as it was.
func TestS10CopyUp(t *testing.T) {
	big := noise(bigFile)
	from := withShell(t, "docker.io/test/s10:v1",
		registry.File{Path: "/data/big", Mode: 0o644, Data: big},
		registry.File{Path: "/data/gone", Mode: 0o644, Data: []byte("here\n")},
		registry.File{Path: "/data/dir/a", Mode: 0o644, Data: []byte("a\n")},
		registry.File{Path: "/data/dir/below/b", Mode: 0o600, Data: []byte("b\n"), UID: 7},
	)
	before := layerFiles(t)
	p := shared.pod(t)
	none, _ := layerUsage(t, p.idle("none", from))
	for name, c := range map[string]struct {
		script, look, want string
		least, most        uint64 // bytes more than of a container that does nothing
		check              func(t *testing.T, upper string)
	}{
		"modify": {
			"printf x | dd of=/data/big conv=notrunc bs=1 count=1 2>/dev/null", "head -c 1 /data/big; wc -c </data/big", "x8388608\n",
			bigFile, bigFile + 1<<20, nil,
		},
		"delete": {
			"rm /data/gone", "ls /data; cat /data/gone 2>&1 || true", "big\ndir\ncat: can't open '/data/gone': No such file or directory\n", 0, 64 << 10,
			func(t *testing.T, upper string) { whiteout(t, filepath.Join(upper, "data/gone")) },
		},
		"rename": {
			"mv /data/dir /data/new", "ls /data; cat /data/new/a; stat -c '%u %a' /data/new/below/b", "big\ngone\nnew\na\n7 600\n", 0, 128 << 10,
			func(t *testing.T, upper string) { whiteout(t, filepath.Join(upper, "data/dir")) },
		},
		"replace": {
			"rm -r /data/dir && mkdir /data/dir && echo c >/data/dir/c", "ls /data/dir; cat /data/dir/c", "c\nc\n", 0, 128 << 10, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			run := p.in(t).idle(name, from)
			run.Sh(c.script + "; sync")
			if got := run.Sh(c.look); got != c.want {
				t.Errorf("inside: %q, want %q", got, c.want)
			}
			bytes, _ := layerUsage(t, run)
			if more := bytes - none; more < c.least || more > c.most {
				t.Errorf("the writable layer has %d bytes more than one of nothing", more)
			}
			if c.check != nil {
				_, upper := overlayOf(t, run)
				c.check(t, upper)
			}
		})
	}
	t.Run("image", func(t *testing.T) { untouched(t, before, p.in(t).idle("last", from), big) })
}

// whiteout wants what overlayfs hides a lower name with (overlayfs.rst).
func whiteout(t *testing.T, path string) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Mode&syscall.S_IFMT != syscall.S_IFCHR || st.Rdev != 0 {
		t.Errorf("%s is %v with device number %d, no whiteout", path, info.Mode(), st.Rdev)
	}
}

// untouched looks at the layers on disk, and through a container made later.
func untouched(t *testing.T, before map[string]entry, c *ctr, big []byte) {
	t.Helper()
	if diff := cmp.Diff(before, layerFiles(t)); diff != "" {
		t.Errorf("the layers: %s", diff)
	}
	want := fmt.Sprintf("%x", sha256.Sum256(big))
	if got := c.Sh("sha256sum /data/big"); !strings.HasPrefix(got, want) {
		t.Errorf("a later container has a file of %s, the image %s", got, want)
	}
	if got := c.Sh("cat /data/gone /data/dir/a /data/dir/below/b; ls /data /data/dir"); got != "here\na\nb\n/data:\nbig\ndir\ngone\n\n/data/dir:\na\nbelow\n" {
		t.Errorf("a later container sees %q", got)
	}
}
