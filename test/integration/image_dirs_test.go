package integration

import (
	"os"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/registry"
)

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
		if got := c.exec("stat -c %u:%g:%a /; touch /made && echo writable"); got != "1000:1001:1775\nwritable\n" {
			t.Errorf("%s: the root is %q", name, got)
		}
	}
}
