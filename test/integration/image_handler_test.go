package integration

import (
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// TestImageOfAHandler: all handlers share one store. An image that is pulled for a handler is
// there for each of them, is listed once and in use by the containers of any, which the
// kubelet tells by the image's ID and handler when it collects garbage.
func TestImageOfAHandler(t *testing.T) {
	s := own(t, node.Options{Args: []string{`--runtime=plain={type="builtin"}`}})
	of := func(handler string) *runtimeapi.ImageSpec {
		return &runtimeapi.ImageSpec{Image: busybox, RuntimeHandler: handler}
	}
	_, err := s.Images.PullImage(within(t), &runtimeapi.PullImageRequest{Image: of("none-such")})
	wantCode(t, "a pull for a handler without a table", err, codes.InvalidArgument)
	pulled, err := s.Images.PullImage(within(t), &runtimeapi.PullImageRequest{Image: of("plain")})
	if err != nil {
		t.Fatal(err)
	}
	id := pulled.GetImageRef()
	for _, handler := range []string{"", "plain", "table-that-was-removed"} {
		st, err := s.Images.ImageStatus(within(t), &runtimeapi.ImageStatusRequest{Image: of(handler)})
		if err != nil || st.GetImage().GetId() != id || st.GetImage().GetSpec().GetRuntimeHandler() != handler {
			t.Errorf("asked for handler %q: %v, %v", handler, st.GetImage(), err)
		}
	}
	s.Handler = "plain"
	c := s.pod(t).Start(client.Shell("c", "exec sleep 1000", func(c *runtimeapi.ContainerConfig) { c.Image.RuntimeHandler = "plain" }))
	list, err := s.Images.ListImages(within(t), &runtimeapi.ListImagesRequest{})
	if err != nil || len(list.GetImages()) != 1 {
		t.Fatalf("images %v, %v", list.GetImages(), err)
	}
	listed := list.GetImages()[0]
	all, err := s.Runtime.ListContainers(within(t), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: c.ID}})
	if err != nil || len(all.GetContainers()) != 1 {
		t.Fatalf("containers %v, %v", all.GetContainers(), err)
	}
	for what, image := range map[string]*runtimeapi.ImageSpec{"list": all.GetContainers()[0].GetImage(), "status": c.Status().GetImage()} {
		if image.GetRuntimeHandler() != listed.GetSpec().GetRuntimeHandler() {
			t.Errorf("%s: the container's image is of handler %q, the store's of %q", what, image.GetRuntimeHandler(), listed.GetSpec().GetRuntimeHandler())
		}
	}
	if all.GetContainers()[0].GetImageId() != listed.GetId() {
		t.Errorf("the container has image %s, listed is %s", all.GetContainers()[0].GetImageId(), listed.GetId())
	}
	c.Pod.End()
	if _, err := s.Images.RemoveImage(within(t), &runtimeapi.RemoveImageRequest{Image: of("table-that-was-removed")}); err != nil {
		t.Error(err)
	}
	if st := s.imageStatus(t, busybox); st != nil {
		t.Errorf("the image is there after its removal: %v", st)
	}
}
