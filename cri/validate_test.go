package cri

import (
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
)

func TestPodConfigsThatAreRefused(t *testing.T) {
	huge := strings.Repeat("x", 1<<20)
	for name, change := range map[string]func(*runtimeapi.PodSandboxConfig){
		"no metadata":     func(c *runtimeapi.PodSandboxConfig) { c.Metadata = nil },
		"empty name":      func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "" },
		"1 MiB name":      func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = huge },
		"1 MiB namespace": func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Namespace = huge },
		"slash in uid":    func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Uid = "../x" },
		"arguments in ns": func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Namespace = "a;K8S_POD_UID=b" },
		"equals sign":     func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "a=b" },
		"huge annotation": func(c *runtimeapi.PodSandboxConfig) { c.Annotations = map[string]string{"a": huge} },
	} {
		c := podConfig("a")
		change(c)
		err := checkPodConfig(c)
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
		if len(status.Convert(err).Message()) > 2*maxName {
			t.Errorf("%s: the text repeats the input", name)
		}
	}
	if err := checkPodConfig(podConfig("a")); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

func TestContainerConfigsThatAreRefused(t *testing.T) {
	for name, change := range map[string]func(*runtimeapi.ContainerConfig){
		"no metadata": func(c *runtimeapi.ContainerConfig) { c.Metadata = nil },
		"no image":    func(c *runtimeapi.ContainerConfig) { c.Image = nil },
		"huge image":  func(c *runtimeapi.ContainerConfig) { c.Image.Image = strings.Repeat("x", 1<<20) },
	} {
		c := containerConfig("a")
		change(c)
		if err := checkContainerConfig(c); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A container that asks for nothing has the form of one that asks for much.
func TestContainerConfigsThatAreTaken(t *testing.T) {
	for _, image := range []*runtimeapi.ImageSpec{{Image: "x"}, {Image: "x", UserSpecifiedImage: "y", Annotations: map[string]string{"a": "b"}}} {
		c := containerConfig("a")
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/a", HostPath: "/b"}, {ContainerPath: "/i", Image: image, ImageSubPath: "sub"}}
		if err := checkContainerConfig(c); err != nil {
			t.Error(err)
		}
	}
	if err := checkContainerConfig(containerConfig("bare")); err != nil {
		t.Errorf("without a security context: %v", err)
	}
}

func TestSeconds(t *testing.T) {
	for in, want := range map[int64]time.Duration{0: 0, 3: 3 * time.Second, math.MaxInt64: math.MaxInt64} {
		if got, err := seconds(in); err != nil || got != want {
			t.Errorf("%d: %v, %v", in, got, err)
		}
	}
	if _, err := seconds(-1); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
}

func TestBadInputThroughTheSocketLeavesNothing(t *testing.T) {
	f := newFake()
	f.pods = []*sandbox.PodStatus{{ID: "p", Config: podConfig("p")}}
	_, conn := serve(t, options(f))
	rt, im := runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
	ctx, huge := t.Context(), strings.Repeat("n", 1<<20)
	for name, c := range map[string]struct {
		call func() error
		want codes.Code
	}{
		"huge pod name": {func() error {
			_, err := rt.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: podConfig(huge)})
			return err
		}, codes.InvalidArgument},
		"huge id": {func() error {
			_, err := rt.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: huge})
			return err
		}, codes.InvalidArgument},
		"unknown container": {func() error {
			_, err := rt.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: "zz"})
			return err
		}, codes.NotFound},
		"unknown pod": {func() error {
			_, err := rt.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: "zz", Config: containerConfig("c")})
			return err
		}, codes.NotFound},
		"no config": {func() error {
			_, err := rt.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: "p"})
			return err
		}, codes.InvalidArgument},
		"negative grace": {func() error {
			_, err := rt.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: "c", Timeout: -1})
			return err
		}, codes.InvalidArgument},
		"negative timeout": {func() error {
			_, err := rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: "c", Cmd: []string{"x"}, Timeout: -1})
			return err
		}, codes.InvalidArgument},
		"no resources": {func() error {
			_, err := rt.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: "c"})
			return err
		}, codes.InvalidArgument},
		"port 0": {func() error {
			_, err := rt.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: "p", Port: []int32{0}})
			return err
		}, codes.InvalidArgument},
		"malformed image": {func() error {
			_, err := im.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: "a b"}})
			return err
		}, codes.InvalidArgument},
		"image handler": {func() error {
			_, err := im.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "a", RuntimeHandler: "kata"}})
			return err
		}, codes.InvalidArgument},
	} {
		if err := c.call(); status.Code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(f.calls) != 0 {
		t.Errorf("the domain was called: %v", f.calls)
	}
}
