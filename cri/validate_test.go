package cri

import (
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
)

func TestPodConfigsThatAreRefused(t *testing.T) {
	huge := strings.Repeat("x", 1<<20)
	group := &runtimeapi.Int64Value{Value: 1}
	for name, change := range map[string]func(*runtimeapi.PodSandboxConfig){
		"no metadata":     func(c *runtimeapi.PodSandboxConfig) { c.Metadata = nil },
		"empty name":      func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "" },
		"1 MiB name":      func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = huge },
		"1 MiB namespace": func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Namespace = huge },
		"slash in uid":    func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Uid = "../x" },
		"arguments in ns": func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Namespace = "a;K8S_POD_UID=b" },
		"equals sign":     func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "a=b" },
		"long hostname":   func(c *runtimeapi.PodSandboxConfig) { c.Hostname = strings.Repeat("h", 65) },
		"two servers in one": func(c *runtimeapi.PodSandboxConfig) {
			c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"1.1.1.1 2.2.2.2"}}
		},
		"line in a search": func(c *runtimeapi.PodSandboxConfig) {
			c.DnsConfig = &runtimeapi.DNSConfig{Searches: []string{"a\nnameserver 6.6.6.6"}}
		},
		"line in an option": func(c *runtimeapi.PodSandboxConfig) {
			c.DnsConfig = &runtimeapi.DNSConfig{Options: []string{"ndots:2\rx"}}
		},
		"relative log dir": func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory = "var/log" },
		"huge annotation":  func(c *runtimeapi.PodSandboxConfig) { c.Annotations = map[string]string{"a": huge} },
		"cgroup parent ..": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux = &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/a/../../b"}
		},
		"cgroup parent :": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux = &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "a.slice:berth:b"}
		},
		"cgroup parent long": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux = &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/a/" + strings.Repeat("b", 256)}
		},
		"port 70000":    func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 70000}} },
		"negative port": func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: -1}} },
		"port to 0":     func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 80}} },
		"host_ip":       func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{HostIp: "x"}} },
		"protocol":      func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{Protocol: 9}} },
		"group without user": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{RunAsGroup: group}}
		},
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

func security(c *runtimeapi.ContainerConfig) *runtimeapi.LinuxContainerSecurityContext {
	c.Linux = &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{}}}
	return c.Linux.SecurityContext
}

func mount(m *runtimeapi.Mount) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) { c.Mounts = []*runtimeapi.Mount{m} }
}

func resources(r *runtimeapi.LinuxContainerResources) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) { c.Linux = &runtimeapi.LinuxContainerConfig{Resources: r} }
}

func TestContainerConfigsThatAreRefused(t *testing.T) {
	one := &runtimeapi.Int64Value{Value: 1}
	for name, change := range map[string]func(*runtimeapi.ContainerConfig){
		"no metadata":           func(c *runtimeapi.ContainerConfig) { c.Metadata = nil },
		"no image":              func(c *runtimeapi.ContainerConfig) { c.Image = nil },
		"huge image":            func(c *runtimeapi.ContainerConfig) { c.Image.Image = strings.Repeat("x", 1<<20) },
		"relative working dir":  func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "tmp" },
		"log path that escapes": func(c *runtimeapi.ContainerConfig) { c.LogPath = "../../etc/passwd" },
		"absolute log path":     func(c *runtimeapi.ContainerConfig) { c.LogPath = "/log" },
		"zero byte in command":  func(c *runtimeapi.ContainerConfig) { c.Command = []string{"a\x00b"} },
		"variable without name": func(c *runtimeapi.ContainerConfig) { c.Envs = []*runtimeapi.KeyValue{{Value: []byte("x")}} },
		"stop signal":           func(c *runtimeapi.ContainerConfig) { c.StopSignal = 99 },
		"cpu_period":            resources(&runtimeapi.LinuxContainerResources{CpuPeriod: -1}),
		"cpu_quota":             resources(&runtimeapi.LinuxContainerResources{CpuQuota: -2}),
		"cpu_shares":            resources(&runtimeapi.LinuxContainerResources{CpuShares: -1}),
		"too few cpu_shares":    resources(&runtimeapi.LinuxContainerResources{CpuShares: 1}),
		"too many cpu_shares":   resources(&runtimeapi.LinuxContainerResources{CpuShares: 262145}),
		"memory":                resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: -2}),
		"swap":                  resources(&runtimeapi.LinuxContainerResources{MemorySwapLimitInBytes: -2}),
		"oom":                   resources(&runtimeapi.LinuxContainerResources{OomScoreAdj: 1001}),
		"group without user":    func(c *runtimeapi.ContainerConfig) { security(c).RunAsGroup = one },
		"target without id": func(c *runtimeapi.ContainerConfig) {
			security(c).NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET
		},
		"id without target": func(c *runtimeapi.ContainerConfig) { security(c).NamespaceOptions.TargetId = "x" },
		"network of container": func(c *runtimeapi.ContainerConfig) {
			security(c).NamespaceOptions.Network = runtimeapi.NamespaceMode_CONTAINER
		},
		"users differ": func(c *runtimeapi.ContainerConfig) {
			security(c).NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Uids: []*runtimeapi.IDMapping{{Length: 1}}}
		},
		"localhost without ref": func(c *runtimeapi.ContainerConfig) {
			security(c).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost}
		},
		"profile of no type": func(c *runtimeapi.ContainerConfig) {
			security(c).Seccomp = &runtimeapi.SecurityProfile{ProfileType: 9}
		},
		"ref without localhost": func(c *runtimeapi.ContainerConfig) {
			security(c).Apparmor = &runtimeapi.SecurityProfile{LocalhostRef: "x"}
		},
		"mount to nowhere":      mount(&runtimeapi.Mount{HostPath: "/a"}),
		"mount of nothing":      mount(&runtimeapi.Mount{ContainerPath: "/a"}),
		"mount of two things":   mount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/b", Image: &runtimeapi.ImageSpec{Image: "x"}}),
		"relative source":       mount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "b"}),
		"relative target":       mount(&runtimeapi.Mount{ContainerPath: "a", HostPath: "/b"}),
		"propagation":           mount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/b", Propagation: 7}),
		"rro and not ro":        mount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/b", RecursiveReadOnly: true}),
		"rro and propagation":   mount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/b", RecursiveReadOnly: true, Readonly: true, Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL}),
		"sub path of a host":    mount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/b", ImageSubPath: "x"}),
		"sub path that escapes": mount(&runtimeapi.Mount{ContainerPath: "/a", Image: &runtimeapi.ImageSpec{Image: "x"}, ImageSubPath: "../x"}),
		"device permissions": func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: "/dev/null", Permissions: "rx"}}
		},
		"device of nothing": func(c *runtimeapi.ContainerConfig) { c.Devices = []*runtimeapi.Device{{ContainerPath: "/dev/null"}} },
	} {
		c := containerConfig("a")
		change(c)
		if err := checkContainerConfig(c, podConfig("p")); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestContainerConfigsThatAreTaken(t *testing.T) {
	maps := &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: []*runtimeapi.IDMapping{{HostId: 1000, Length: 10}}, Gids: []*runtimeapi.IDMapping{{HostId: 1000, Length: 10}}}
	pod := podConfig("p")
	pod.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
		Privileged: true, NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, UsernsOptions: maps},
	}}
	c := containerConfig("a")
	sc := security(c)
	sc.Privileged = true
	// As the kubelet does when the pod names a user and the image too.
	sc.RunAsUser, sc.RunAsUsername = &runtimeapi.Int64Value{Value: 5}, "www"
	sc.NamespaceOptions = &runtimeapi.NamespaceOption{
		Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "t",
		UsernsOptions: proto.Clone(maps).(*runtimeapi.UserNamespace),
	}
	c.LogPath = "a/0.log"
	c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/a", HostPath: "/b", Readonly: true, RecursiveReadOnly: true}, {ContainerPath: "/i", Image: &runtimeapi.ImageSpec{Image: "x"}, ImageSubPath: "sub"}}
	c.Devices = []*runtimeapi.Device{{HostPath: "/dev/null", ContainerPath: "/dev/n", Permissions: "rwm"}}
	if err := checkContainerConfig(c, pod); err != nil {
		t.Error(err)
	}
	if err := checkContainerConfig(containerConfig("bare"), pod); err != nil {
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
