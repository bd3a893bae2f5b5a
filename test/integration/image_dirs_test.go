package integration

import (
	"os"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/registry"
)

// What an image says of directories: its root, and those it declares as volumes.

// The root directory has the owner and mode of the topmost layer that tells of it,
// also where a user namespace maps them.
func TestRootDirectoryOfTheImage(t *testing.T) {
	const ref = "docker.io/test/root-directory:v1"
	img, err := registry.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range []registry.File{
		{Path: "/", Mode: os.ModeDir | 0o700, UID: 5, GID: 6},
		{Path: "/", Mode: os.ModeDir | os.ModeSticky | 0o775, UID: 1000, GID: 1001},
		{Path: "/file", Mode: 0o644, Data: []byte("x")},
	} {
		if img, err = registry.Extend(img, nil, layer); err != nil {
			t.Fatal(err)
		}
	}
	if err := images.Push(ref, img); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shared.removeImage(t, ref) })
	maps := []*runtimeapi.IDMapping{{HostId: 1 << 22, Length: 1 << 16}}
	own := &runtimeapi.NamespaceOption{
		UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: maps, Gids: maps},
	}
	for name, o := range map[string]*runtimeapi.NamespaceOption{"host-users": {}, "own-users": own} {
		c := shared.pod(t, named(name), namespaces(o)).start(name, "sleep 1000", func(c *runtimeapi.ContainerConfig) {
			c.Image.Image = ref
		}, sameNamespaces(o))
		if got := c.Sh("stat -c %u:%g:%a /; touch /made && echo writable"); got != "1000:1001:1775\nwritable\n" {
			t.Errorf("%s: the root is %q", name, got)
		}
	}
}

// withVolumes is an image that declares volumes on, below and beside links.
func withVolumes(t *testing.T) func(*runtimeapi.ContainerConfig) {
	return extended(t, "docker.io/test/declared-volumes:v1", func(c *v1.Config) {
		c.Volumes = map[string]struct{}{"/dangling": {}, "/below/it": {}, "/data": {}, "/data/sub": {}, "/new": {}, "/dev/shm": {}}
	},
		registry.File{Path: "/dangling", Link: "/run/nothing"},
		registry.File{Path: "/below", Link: "../../var/none"},
		registry.File{Path: "/data", Mode: os.ModeDir | 0o770, UID: 1000, GID: 1000},
		registry.File{Path: "/data/file", Mode: 0o640, UID: 1000, GID: 1000, Data: []byte("content\n")},
		registry.File{Path: "/data/fifo", Mode: os.ModeNamedPipe | 0o644},
	)
}

// Volumes that an image declares are there as the image has them and can be written,
// under a read-only root too, and what is written counts as the container's.
func TestDeclaredVolumes(t *testing.T) {
	image := withVolumes(t)
	p := shared.pod(t)
	for name, readonly := range map[string]bool{"writable": false, "read-only": true} {
		c := p.start(name, "sleep 1000", image, func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{ReadonlyRootfs: readonly, RunAsUser: &runtimeapi.Int64Value{Value: 1000}}
		})
		if got := c.Sh("stat -c %u:%g:%a /data; cat /data/file; echo more >/data/file; echo made >/data/made; cat /data/file"); got != "1000:1000:770\ncontent\nmore\n" {
			t.Errorf("%s: the volume with content: %q", name, got)
		}
		if got := c.Sh("stat -c %F:%a /run/nothing /var/none/it /new | sort -u; readlink /dangling"); got != "directory:755\n/run/nothing\n" {
			t.Errorf("%s: the volumes at links: %q", name, got)
		}
		if got := c.Sh("touch /other 2>/dev/null || echo refused"); readonly && got != "refused\n" {
			t.Errorf("%s: the root takes a file", name)
		}
		root := p.start(name+"-root", "sleep 1000", image, func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{ReadonlyRootfs: readonly}
		})
		root.Sh("touch /dangling/a /below/it/b /new/c; dd if=/dev/zero of=/data/large bs=1M count=2 2>/dev/null; sync")
		if bytes, _ := layerUsage(t, root); bytes < 2<<20 {
			t.Errorf("%s: %d bytes are counted", name, bytes)
		}
	}
}

// A declared volume that a mount covers is left to the mount.
func TestCoveredDeclaredVolumes(t *testing.T) {
	image := withVolumes(t)
	dir := volume(t)
	c := shared.pod(t).start("c", "sleep 1000", image, func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{ReadonlyRootfs: true}
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: dir}, {ContainerPath: "/dangling", HostPath: dir}}
	})
	if got := c.Sh("echo x >/data/x; ls /data /run/nothing"); strings.Join(strings.Fields(got), " ") != "/data: x /run/nothing: x" {
		t.Errorf("the mounts show %q", got)
	}
	if _, err := os.Stat(dir + "/sub"); err == nil {
		t.Error("the volume was made in the directory that covers it")
	}
}
