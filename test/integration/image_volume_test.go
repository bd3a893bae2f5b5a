package integration

import (
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// An image volume is read-only whether its mount says so or not, and the status has
// the digest of what was mounted, as Kubernetes shows it.
func TestImageVolume(t *testing.T) {
	p := shared.pod(t)
	shared.pull(t, busybox)
	for name, readonly := range map[string]bool{"said": true, "unsaid": false} {
		c := p.start("volume-"+name, "sleep 100", func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{
				{ContainerPath: "/tmp", HostPath: t.TempDir()},
				{ContainerPath: "/volume", Image: &runtimeapi.ImageSpec{Image: busybox}, Readonly: readonly},
			}
		})
		if got := c.Sh("test -x /volume/bin/sh && (echo x >/volume/file) 2>&1 || true"); !strings.Contains(got, "Read-only file system") {
			t.Errorf("%s: writing to it says %q", name, got)
		}
		m := c.Status().GetMounts()
		if len(m) != 2 || m[0].GetImage() != nil {
			t.Fatalf("%s: mounts %v", name, m)
		}
		if ref, id := m[1].GetImage().GetImageRef(), shared.pull(t, busybox); ref != id || !m[1].GetReadonly() {
			t.Errorf("%s: image_ref %q and readonly %t, the image's ID is %q", name, ref, m[1].GetReadonly(), id)
		}
	}
}
