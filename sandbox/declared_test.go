package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
)

// Volumes on and below links, those that lead to nothing too, are made below the root.
func TestDeclaredVolumesStayInside(t *testing.T) {
	base := t.TempDir()
	rootfs, outside := filepath.Join(base, "rootfs"), filepath.Join(base, "outside")
	for _, d := range []string{filepath.Join(rootfs, "run"), filepath.Join(rootfs, "etc"), outside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"link": outside, "up": "../../outside", "varrun": "/run", "file": "etc", "loop": "loop"} {
		if err := os.Symlink(to, filepath.Join(rootfs, name)); err != nil {
			t.Fatal(err)
		}
	}
	mustWrite(t, filepath.Join(rootfs, "etc", "passwd"))
	for volume, made := range map[string]string{
		"/data/x": "data/x", "/": "", "../../data/y": "data/y", "/varrun/app": "run/app", "/file": "etc",
		"/link/x": outside[1:] + "/x", "/link": outside[1:], "/up/x": "outside/x",
		"/loop": "-", "/loop/x": "-", "/etc/passwd/x": "-", "/etc/passwd": "-",
	} {
		_, err := declareVolumes(t.Context(), declared{rootfs: rootfs, owner: fileOwner{1234, 1235}}, map[string]struct{}{volume: {}}, false)
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("volume %s: %v is not ErrInvalid", volume, err)
		}
		if (err == nil) != (made != "-") || err == nil && !exists(filepath.Join(rootfs, made)) {
			t.Errorf("volume %s: %v", volume, err)
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("made outside: %v, %v", entries, err)
	}
	for dir, uid := range map[string]uint32{"data": 1234, "data/x": 1234, "run/app": 1234, "outside/x": 1234, "run": 0, "etc": 0} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(rootfs, dir), &st); err != nil || st.Uid != uid {
			t.Errorf("%s belongs to %d, %v; want %d", dir, st.Uid, err, uid)
		}
	}
}

// A volume that a mount covers, also by another name, is neither made nor mounted.
func TestDeclaredVolumesUnderMounts(t *testing.T) {
	rootfs := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(rootfs, "deep"), 0o755), os.Symlink("deep/data", filepath.Join(rootfs, "link")),
		os.Symlink("/dev", filepath.Join(rootfs, "devices")), os.Symlink("/", filepath.Join(rootfs, "top")),
		os.Symlink("loop", filepath.Join(rootfs, "loop"))); err != nil {
		t.Fatal(err)
	}
	volumes := map[string]struct{}{}
	for _, v := range []string{
		"/", "/top", "/proc/x", "/dev/shm", "/sys", "/devices/x", // covered in every container
		"/given", "/given/below", "/deep/data", "/link/x", // by the mounts below
		"/loop/x", "/kept", "/kept/", "/deep/other", "/givenname",
	} {
		volumes[v] = struct{}{}
	}
	d := declared{rootfs: rootfs}
	for _, at := range []string{"/given/", "/link"} {
		d.mounts = append(d.mounts, oci.Mount{Mount: &runtimeapi.Mount{ContainerPath: at}})
	}
	if _, err := declareVolumes(t.Context(), d, volumes, true); !errors.Is(err, ErrInvalid) {
		t.Errorf("a link to itself: %v", err)
	}
	delete(volumes, "/loop/x")
	got, err := declareVolumes(t.Context(), d, volumes, true)
	if err != nil {
		t.Fatal(err)
	}
	var at []string
	for _, m := range got {
		at = append(at, m.ContainerPath)
		if m.Source != filepath.Join(rootfs, m.ContainerPath) || !exists(m.Source) {
			t.Errorf("%s is mounted from %s", m.ContainerPath, m.Source)
		}
	}
	if want := []string{"/deep/other", "/givenname", "/kept"}; !slices.Equal(at, want) {
		t.Errorf("mounted are %v, want %v", at, want)
	}
	for _, covered := range []string{"given", "deep/data", "dev", "proc", "sys"} {
		if exists(filepath.Join(rootfs, covered)) {
			t.Errorf("%s was made", covered)
		}
	}
}

// An image declares volumes without end, each a directory and a mount: it is refused
// before anything is made.
func TestAttackManyDeclaredVolumes(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	n.images.config.Volumes = map[string]struct{}{}
	for i := range maxDeclared + 1 {
		n.images.config.Volumes[fmt.Sprint("/v", i)] = struct{}{}
	}
	_, err := n.m.CreateContainer(t.Context(), pod, containerConfig("c"), nil)
	wantError(t, "create", err, ErrInvalid)
	wantNothing(t, filepath.Join(n.state, "containers"))
}
