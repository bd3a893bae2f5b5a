package integration

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/node"
)

// A container's image_ref is the digest in the registry that its image had at its
// creation, in the status and in lists, with the image removed and with another
// daemon; image_id is the image's ID.
func TestImageRefIsTheRegistryDigest(t *testing.T) {
	s := own(t, node.Options{})
	p := s.pod(t)
	id := s.pull(t, busybox)
	digests := s.imageStatus(t, busybox).GetRepoDigests()
	if len(digests) != 1 {
		t.Fatalf("the image has the digests %q", digests)
	}
	c := p.start("by-id", "sleep 1000", func(c *runtimeapi.ContainerConfig) {
		c.Image = &runtimeapi.ImageSpec{Image: id, UserSpecifiedImage: busybox}
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/volume", Image: &runtimeapi.ImageSpec{Image: busybox}}}
	})
	check := func(when string) {
		t.Helper()
		st := c.Status()
		if st.GetImageRef() != digests[0] || st.GetImageId() != id || st.GetMounts()[0].GetImage().GetImageRef() != id {
			t.Errorf("%s: image_ref %s, image_id %s, mounts %v; want %s and %s",
				when, st.GetImageRef(), st.GetImageId(), st.GetMounts(), digests[0], id)
		}
		list, err := s.Runtime.ListContainers(within(t), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: c.ID}})
		if err != nil || len(list.GetContainers()) != 1 {
			t.Fatalf("ListContainers: %v, %v", list, err)
		}
		if l := list.GetContainers()[0]; l.GetImageRef() != digests[0] || l.GetImageId() != id {
			t.Errorf("%s: listed with image_ref %s, image_id %s", when, l.GetImageRef(), l.GetImageId())
		}
	}
	check("while it runs")
	s.removeImage(t, busybox)
	check("its image removed")
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.resubscribe(t)
	check("after a restart of the daemon")
}
