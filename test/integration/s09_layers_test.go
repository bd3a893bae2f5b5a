package integration

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/sys/mountinfo"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/registry"
)

// withShell pushes busybox with more files in a layer of their own, pulls it, and
// removes it with the test.
func withShell(t *testing.T, ref string, files ...registry.File) func(*runtimeapi.ContainerConfig) {
	t.Helper()
	return extended(t, ref, func(*v1.Config) {}, files...)
}

// extended is withShell with another configuration of the image.
func extended(t *testing.T, ref string, change func(*v1.Config), files ...registry.File) func(*runtimeapi.ContainerConfig) {
	t.Helper()
	base, err := registry.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	img, err := registry.Extend(base, change, files...)
	if err != nil {
		t.Fatal(err)
	}
	if err := images.Push(ref, img); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shared.removeImage(t, ref) })
	shared.pull(t, ref)
	return func(c *runtimeapi.ContainerConfig) { c.Image.Image = ref }
}

// noise is data that nothing can store smaller.
func noise(size int) []byte {
	out := make([]byte, size)
	for i, r := 0, rand.New(rand.NewPCG(1, 2)); i < size; i++ {
		out[i] = byte(r.Uint32())
	}
	return out
}

// entry is what the disk has of one name of a layer.
type entry struct {
	Mode   fs.FileMode
	Size   int64
	Inode  uint64
	Blocks int64
	At     syscall.Timespec
}

// layerFiles lists all layers on disk.
func layerFiles(t *testing.T) map[string]entry {
	t.Helper()
	root := filepath.Join(shared.Root, "layers")
	out := map[string]entry{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		out[strings.TrimPrefix(path, root)] = entry{info.Mode(), st.Size, st.Ino, st.Blocks, st.Mtim}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// overlayOf is the container's root in the host's mount table.
func overlayOf(t *testing.T, c *ctr) (lower, upper string) {
	t.Helper()
	found, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(filepath.Join(c.p.s.State, "containers", c.ID, "rootfs")))
	if err != nil || len(found) != 1 || found[0].FSType != "overlay" {
		t.Fatalf("the root of %s: %v, %v", c.ID, found, err)
	}
	var lowers []string
	for option := range strings.SplitSeq(found[0].VFSOptions, ",") {
		if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
			upper = dir
		}
		if strings.HasPrefix(option, "lowerdir") {
			lowers = append(lowers, option)
		}
	}
	return strings.Join(lowers, ","), upper
}

// du is what the disk has of a directory, told by another program.
func du(t *testing.T, dir string) (bytes, inodes uint64) {
	t.Helper()
	for flag, into := range map[string]*uint64{"--block-size=1": &bytes, "--inodes": &inodes} {
		out, err := exec.Command("du", "-s", flag, dir).Output()
		if err != nil {
			t.Fatal(err)
		}
		*into = number(t, strings.Fields(string(out))[0])
	}
	return bytes, inodes
}

// layerUsage wants the daemon to tell of the writable layer what the disk has; it
// measures at most every ten seconds, so ask once and last.
func layerUsage(t *testing.T, c *ctr) (bytes, inodes uint64) {
	t.Helper()
	_, upper := overlayOf(t, c)
	bytes, inodes = du(t, upper)
	r, err := c.p.s.Runtime.ContainerStats(within(t), &runtimeapi.ContainerStatsRequest{ContainerId: c.ID})
	if err != nil {
		t.Fatal(err)
	}
	w := r.GetStats().GetWritableLayer()
	if w.GetUsedBytes().GetValue() != bytes || w.GetInodesUsed().GetValue() != inodes {
		t.Errorf("the writable layer is told as %d bytes and %d inodes, the disk has %d and %d",
			w.GetUsedBytes().GetValue(), w.GetInodesUsed().GetValue(), bytes, inodes)
	}
	return bytes, inodes
}

// S09: three containers of one image share one copy of its layers and have a
// writable layer each. TestSharedLayers has layers that images share.
func TestS09Layers(t *testing.T) {
	from := withShell(t, "docker.io/test/s09:v1", registry.File{Path: "/shared", Mode: 0o644, Data: noise(4 << 20)})
	before := layerFiles(t)
	p := shared.pod(t)
	var all []*ctr
	for i := range 3 {
		all = append(all, p.idle(fmt.Sprint("c", i), from))
	}
	oneCopy(t, all)
	all[0].Sh("dd if=/dev/zero of=/mine bs=1M count=3 2>/dev/null; sync")
	all[1].Sh("echo other > /mine; echo changed > /second; sync")
	if got := all[1].Sh("cat /mine"); got != "other\n" {
		t.Errorf("a file of the same name in another container: %q", got)
	}
	if got := all[2].Sh("ls /mine /second 2>&1 || true"); strings.Count(got, "No such file") != 2 {
		t.Errorf("the third sees %q", got)
	}
	var bytes, inodes [3]uint64
	for i, c := range all {
		bytes[i], inodes[i] = layerUsage(t, c)
	}
	if bytes[0] < 3<<20 || bytes[1] > 1<<20 || bytes[2] > 1<<20 || inodes[0] != inodes[2]+1 || inodes[1] != inodes[2]+2 {
		t.Errorf("usage is %v bytes and %v inodes", bytes, inodes)
	}
	if diff := cmp.Diff(before, layerFiles(t)); diff != "" {
		t.Errorf("the image's layers: %s", diff)
	}
}

// oneCopy compares inodes: of one file in all containers and in the store, and of
// the writable layers.
func oneCopy(t *testing.T, all []*ctr) {
	t.Helper()
	stored, err := filepath.Glob(filepath.Join(shared.Root, "layers", "*", "*", "shared"))
	if err != nil || len(stored) != 1 {
		t.Fatalf("copies of the file in the store: %v, %v", stored, err)
	}
	lower, _ := overlayOf(t, all[0])
	uppers := map[uint64]bool{}
	for _, c := range all {
		if got, want := inodeOf(t, fmt.Sprintf("/proc/%d/root/shared", c.hostPID())), inodeOf(t, stored[0]); got != want {
			t.Errorf("%s is inode %d in a container and %d in the store", stored[0], got, want)
		}
		l, upper := overlayOf(t, c)
		if l != lower {
			t.Errorf("one container is mounted of %s, another of %s", lower, l)
		}
		uppers[inodeOf(t, upper)] = true
	}
	if len(uppers) != len(all) {
		t.Errorf("%d containers have %d writable layers", len(all), len(uppers))
	}
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}
