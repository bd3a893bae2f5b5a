package oci

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// tmpfs mounts one at a fresh directory, with a propagation.
func tmpfs(t *testing.T, propagation uintptr) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("needs privilege:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", propagation, ""); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestResolveMounts(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(target, 0o755), os.Symlink("real", link)); err != nil {
		t.Fatal(err)
	}
	got, err := ResolveMounts([]*runtimeapi.Mount{
		{ContainerPath: "/a", HostPath: link},
		{ContainerPath: "/b", Readonly: true, Image: &runtimeapi.ImageSpec{Image: "i"}},
	}, v2Host())
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Source != target || got[0].HostPath != link || got[1].Source != "" {
		t.Errorf("got %v", got)
	}
}

func TestResolveMountsMissingSource(t *testing.T) {
	host := v2Host()
	missing := filepath.Join(t.TempDir(), "a", "b")
	mounts := []*runtimeapi.Mount{{ContainerPath: "/v", HostPath: missing}}
	_, err := ResolveMounts(mounts, host)
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "DirectoryOrCreate") {
		t.Errorf("got %v", err)
	}
	host.CreateSources = true
	if got, err := ResolveMounts(mounts, host); err != nil || got[0].Source != missing {
		t.Errorf("got %v, %v", got, err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	_, err = ResolveMounts([]*runtimeapi.Mount{{ContainerPath: "/v", HostPath: link}}, host)
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), link) {
		t.Errorf("a link to nothing: %v", err)
	}
}

func TestResolveMountsRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, host := range map[string]string{
		"relative": "etc", "empty": "", "below a file": file + "/x", "too long": "/" + strings.Repeat("x", 1<<20),
	} {
		_, err := ResolveMounts([]*runtimeapi.Mount{{ContainerPath: "/v", HostPath: host}}, v2Host())
		if !errors.Is(err, ErrInvalid) || len(err.Error()) > 1000 {
			t.Errorf("%s: got %.300v", name, err)
		}
	}
}

func TestCheckPropagation(t *testing.T) {
	const (
		private = runtimeapi.MountPropagation_PROPAGATION_PRIVATE
		slave   = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		shared  = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	)
	of := map[string]string{"private": tmpfs(t, unix.MS_PRIVATE), "shared": tmpfs(t, unix.MS_SHARED)}
	of["slave"] = t.TempDir()
	if err := errors.Join(unix.Mount(of["shared"], of["slave"], "", unix.MS_BIND, ""), unix.Mount("", of["slave"], "", unix.MS_SLAVE, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(of["slave"], unix.MNT_DETACH) })
	for _, c := range []struct {
		mount string
		p     runtimeapi.MountPropagation
		ok    bool
	}{
		{"private", private, true}, {"private", slave, false}, {"private", shared, false},
		{"slave", private, true}, {"slave", slave, true}, {"slave", shared, false},
		{"shared", private, true}, {"shared", slave, true}, {"shared", shared, true},
	} {
		err := checkPropagation(of[c.mount], c.p)
		if c.ok != (err == nil) || err != nil && !strings.Contains(err.Error(), "make-rshared "+of[c.mount]) {
			t.Errorf("%s on %s: %v", c.p, c.mount, err)
		}
	}
}

func TestCheckIDMap(t *testing.T) {
	child := exec.Command("sleep", "infinity")
	line := []syscall.SysProcIDMap{{HostID: 100000, Size: 1000}}
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: line, GidMappings: line, Pdeathsig: syscall.SIGKILL}
	if err := child.Start(); err != nil {
		t.Skip("needs user namespaces:", err)
	}
	t.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	mapping := []*runtimeapi.IDMapping{{HostId: 100000, Length: 1000}}
	mount := func(path string) []Mount {
		return []Mount{{Mount: &runtimeapi.Mount{ContainerPath: "/v", HostPath: path, UidMappings: mapping, GidMappings: mapping}, Source: path}}
	}
	if err := CheckIDMap(mount(tmpfs(t, unix.MS_PRIVATE)), child.Process.Pid); err != nil {
		t.Errorf("tmpfs: %v", err)
	}
	if err := CheckIDMap(mount("/proc/sys"), child.Process.Pid); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "/proc/sys") {
		t.Errorf("procfs: %v", err)
	}
	if err := CheckIDMap([]Mount{{Mount: &runtimeapi.Mount{}, Source: "/proc"}}, 0); err != nil {
		t.Errorf("without mappings: %v", err)
	}
}

// Of mounts at one path, however it is written, the last one counts.
func TestLaterMountCovers(t *testing.T) {
	in := baseInput()
	for i, path := range []string{"/d", "/e", "/d/", "/x/../d/."} {
		in.bind(&runtimeapi.Mount{ContainerPath: path, HostPath: "/src" + strconv.Itoa(i)})
	}
	spec, err := Spec(in.pod, in.ctr, in.img, in.host)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range spec.Mounts {
		if strings.HasPrefix(m.Source, "/src") {
			got = append(got, m.Source+" "+m.Destination)
		}
	}
	if want := []string{"/src1 /e", "/src3 /d"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Whatever list of mounts is given, Spec refuses it or keeps parents before
// children, names no path outside the root, and leaves no path twice.
func FuzzMountList(f *testing.F) {
	f.Add("/a/b\n/a\n/dev\n../../x", true, int32(2))
	f.Add("/\n\n.", false, int32(0))
	f.Add("/etc/hosts\n/etc//hosts", false, int32(1))
	f.Add("/sys\n/proc/1", false, int32(0))
	f.Add("/sys\n/sys/fs/cgroup\n/proc/1", false, int32(9))
	f.Fuzz(func(t *testing.T, paths string, readonly bool, propagation int32) {
		in := baseInput()
		for p := range strings.SplitSeq(paths, "\n") {
			in.bind(&runtimeapi.Mount{ContainerPath: p, HostPath: "/src", Readonly: readonly, Propagation: runtimeapi.MountPropagation(propagation)})
		}
		spec, err := Spec(in.pod, in.ctr, ocispec.ImageConfig{Cmd: []string{"x"}}, in.host)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		var seen []string
		for _, m := range spec.Mounts {
			dest := m.Destination
			if dest != filepath.Clean(dest) || !filepath.IsAbs(dest) || dest == "/" || slices.Contains(seen, dest) {
				t.Errorf("destination %q after %q", dest, seen)
			}
			for _, before := range seen {
				if strings.HasPrefix(before, dest+"/") {
					t.Errorf("%q is mounted over %q", dest, before)
				}
			}
			seen = append(seen, dest)
		}
	})
}
