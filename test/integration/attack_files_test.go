package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/registry"
)

// An image volume's sub-path names a FIFO, so that CreateContainer waits for a
// writer for ever, and with it every call for the pod.
func TestAttackImageSubPathIsAFIFO(t *testing.T) {
	const ref = "docker.io/test/attack-subpath:v1"
	withShell(t, ref, registry.File{Path: "/d/fifo", Mode: os.ModeNamedPipe | 0o644})
	p := shared.pod(t)
	_, err := p.create(client.Shell("c", "true", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtimeapi.Mount{
			ContainerPath: "/v", Readonly: true, Image: &runtimeapi.ImageSpec{Image: ref}, ImageSubPath: "d/fifo",
		})
	}))
	wantCode(t, "a sub-path that is a FIFO", err, codes.InvalidArgument)
	p.End()
}

// An image's /etc/passwd is a FIFO, so that CreateContainer waits for a writer.
func TestAttackPasswdIsAFIFO(t *testing.T) {
	from := withShell(t, "docker.io/test/attack-passwd:v1", registry.File{Path: "/etc/passwd", Mode: os.ModeNamedPipe | 0o644})
	p := shared.pod(t)
	_, err := p.create(client.Shell("c", "true", from))
	wantCode(t, "an image whose /etc/passwd is a FIFO", err, codes.InvalidArgument)
	p.End()
}

// An image's USER is a number too large for a UID and the name of an account of
// root's, so that a container that must not be root is (CVE-2024-40635).
func TestAttackUserIsAHugeNumber(t *testing.T) {
	const number = "4294967296"
	passwd := registry.File{Path: "/etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0::/:\n" + number + ":x:0:0::/:\n")}
	from := extended(t, "docker.io/test/attack-user:v1", func(c *v1.Config) { c.User = number }, passwd)
	p := shared.pod(t)
	for name, sc := range map[string]*runtimeapi.LinuxContainerSecurityContext{"USER": nil, "run_as_username": {RunAsUsername: number}} {
		_, err := p.create(client.Shell("c", "id", from, func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext = sc }))
		wantCode(t, name+" "+number, err, codes.InvalidArgument)
	}
}

// A container nests its writable layer thousands of levels deep, so that its stats
// end the daemon, and its removal fails for ever.
func TestAttackNestedLayer(t *testing.T) {
	const depth = 20_000
	p := shared.pod(t)
	c := p.start("c", "sleep 1000")
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/root", c.hostPID()), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for range depth {
		if err == nil {
			err = unix.Mkdirat(fd, "d", 0o755)
		}
		if err == nil {
			up := fd
			fd, err = unix.Openat(up, "d", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			unix.Close(up)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	eventually(t, "the layer is measured", func() bool {
		r, err := shared.Runtime.ContainerStats(within(t), &runtimeapi.ContainerStatsRequest{ContainerId: c.ID})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetStats().GetWritableLayer().GetInodesUsed().GetValue() > depth
	})
	if _, err := shared.Runtime.RemoveContainer(within(t), &runtimeapi.RemoveContainerRequest{ContainerId: c.ID}); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(shared.Dir, "root/pods/*/containers/"+c.ID)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
