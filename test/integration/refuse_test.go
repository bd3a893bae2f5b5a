package integration

import (
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// Every RPC of the API answers an empty request: with a result, Unimplemented
// or a refusal, never a panic.
func TestEveryRPCAnswers(t *testing.T) {
	own, err := client.Dial(shared.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	for _, service := range []grpc.ServiceDesc{runtimeapi.RuntimeService_ServiceDesc, runtimeapi.ImageService_ServiceDesc} {
		for _, m := range service.Methods {
			err := own.Conn.Invoke(within(t), "/"+service.ServiceName+"/"+m.MethodName, &emptypb.Empty{}, &emptypb.Empty{})
			answered(t, m.MethodName, err)
		}
		for _, d := range service.Streams {
			if d.StreamName == "GetContainerEvents" {
				continue // every other test has it open
			}
			stream, err := own.Conn.NewStream(within(t), &d, "/"+service.ServiceName+"/"+d.StreamName)
			if err == nil {
				err = stream.SendMsg(&emptypb.Empty{})
			}
			if err == nil {
				err = stream.CloseSend()
			}
			if err == nil {
				err = stream.RecvMsg(&emptypb.Empty{})
			}
			answered(t, d.StreamName, err)
		}
	}
}

func answered(t *testing.T, rpc string, err error) {
	t.Helper()
	if err != nil && err.Error() == "EOF" {
		return // an empty stream
	}
	switch status.Code(err) {
	case codes.OK:
	case codes.InvalidArgument, codes.NotFound, codes.Unimplemented, codes.FailedPrecondition:
		if len(status.Convert(err).Message()) < 10 {
			t.Errorf("%s: %v is no sentence", rpc, err)
		}
	default:
		t.Errorf("%s: %v", rpc, err)
	}
}

// Bad input is refused with a sentence and leaves nothing.
func TestBadPods(t *testing.T) {
	cases := map[string]func(*runtimeapi.PodSandboxConfig){
		"no metadata":       func(c *runtimeapi.PodSandboxConfig) { c.Metadata = nil },
		"no name":           func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "" },
		"1 MiB name":        func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = strings.Repeat("n", 1<<20) },
		"slash in the name": func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "../../etc" },
		"network arguments": func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Namespace = "a;b" },
		"equals sign":       func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "a=b" },
		"port to nowhere":   func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 70}} },
		"long hostname":     func(c *runtimeapi.PodSandboxConfig) { c.Hostname = strings.Repeat("h", 65) },
		"relative logs":     func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory = "logs" },
		"port out of range": func(c *runtimeapi.PodSandboxConfig) {
			c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 70000, ContainerPort: 1}}
		},
		"host IP": func(c *runtimeapi.PodSandboxConfig) {
			c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 70, ContainerPort: 1, HostIp: "x"}}
		},
		"no network sysctl": func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"net.no.such": "1"} },
		"value of a sysctl": func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "x"} },
		"1 MiB sysctl": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": strings.Repeat("1", 1<<20)}
		},
		"unknown sysctl":     func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"no.such": "1"} },
		"sysctl of the host": func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"vm.swappiness": "1"} },
		"cgroup parent":      func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "/a/../../b" },
		"bandwidth": func(c *runtimeapi.PodSandboxConfig) {
			c.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "much"}
		},
		"pod's huge pages": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "../2MB", Limit: 1}}}
		},
		"pod's overhead": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Overhead = &runtimeapi.LinuxContainerResources{CpuPeriod: -1}
		},
		"network namespace": namespaces(&runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_CONTAINER}),
		"ipc target":        namespaces(&runtimeapi.NamespaceOption{Ipc: runtimeapi.NamespaceMode_TARGET}),
	}
	for name, change := range cases {
		c := shared.podConfig(t)
		change(c)
		r, err := shared.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: c})
		refused(t, name, err)
		if r.GetPodSandboxId() != "" {
			shared.podOf(t, r.GetPodSandboxId(), nil).End()
		}
	}
	_, err := shared.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: shared.podConfig(t), RuntimeHandler: "none-such"})
	refused(t, "unknown handler", err)
	for _, key := range []string{"rdt.resources.beta.kubernetes.io/pod", "blockio.resources.beta.kubernetes.io/container.c"} {
		c := shared.podConfig(t)
		c.Annotations = map[string]string{key: "gold"}
		_, err := shared.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: c})
		wantCode(t, key, err, codes.FailedPrecondition)
	}
	_, err = shared.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{})
	refused(t, "no config", err)
	if n := len(podsOf(t, shared, t.Name())); n != 0 {
		t.Errorf("%d pods are left", n)
	}
	if err := shared.Leaks(); err != nil && strings.Contains(err.Error(), "/pods/") {
		t.Error(err)
	}
}

func refused(t *testing.T, what string, err error) {
	t.Helper()
	wantCode(t, what, err, codes.InvalidArgument)
	if text := status.Convert(err).Message(); len(text) < 20 || len(text) > 4096 {
		t.Errorf("%s: %d bytes of text: %.100q", what, len(text), text)
	}
}

func TestBadContainers(t *testing.T) {
	p := shared.pod(t)
	mount := func(m *runtimeapi.Mount) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { c.Mounts = []*runtimeapi.Mount{m} }
	}
	security := func(sc *runtimeapi.LinuxContainerSecurityContext) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext = sc }
	}
	cases := map[string]func(*runtimeapi.ContainerConfig){
		"no metadata":     func(c *runtimeapi.ContainerConfig) { c.Metadata = nil },
		"1 MiB name":      func(c *runtimeapi.ContainerConfig) { c.Metadata.Name = strings.Repeat("n", 1<<20) },
		"log path out":    func(c *runtimeapi.ContainerConfig) { c.LogPath = "../../x.log" },
		"no mount source": mount(&runtimeapi.Mount{ContainerPath: "/x"}),
		"below a file":    mount(&runtimeapi.Mount{ContainerPath: "/x", HostPath: "/dev/null/file"}), // a missing directory is made
		"no mount target": mount(&runtimeapi.Mount{HostPath: "/tmp"}),
		"relative target": mount(&runtimeapi.Mount{ContainerPath: "x/../../../etc", HostPath: "/tmp"}),
		"rro not ro":      mount(&runtimeapi.Mount{ContainerPath: "/x", HostPath: "/tmp", RecursiveReadOnly: true}),
		"device gone": func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: "/dev/none", ContainerPath: "/dev/none", Permissions: "rwm"}}
		},
		"env name": func(c *runtimeapi.ContainerConfig) { c.Envs = []*runtimeapi.KeyValue{{Key: "A=B"}} },
		"negative quota": func(c *runtimeapi.ContainerConfig) {
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuQuota: -7}
		},
		"unknown user":                      security(&runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "nobody-at-all"}),
		"group alone":                       security(&runtimeapi.LinuxContainerSecurityContext{RunAsGroup: &runtimeapi.Int64Value{Value: 1}}),
		"capability":                        security(&runtimeapi.LinuxContainerSecurityContext{Capabilities: &runtimeapi.Capability{AddCapabilities: []string{"FLY"}}}),
		"privileged in an unprivileged pod": security(&runtimeapi.LinuxContainerSecurityContext{Privileged: true}),
		"seccomp file gone": security(&runtimeapi.LinuxContainerSecurityContext{Seccomp: &runtimeapi.SecurityProfile{
			ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/no/such/profile.json"}}),
		"target without ID":             security(&runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET}}),
		"host network in a pod network": security(&runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}}),
	}
	shared.pull(t, busybox)
	for name, change := range cases {
		_, err := p.create(client.Shell("c", "true", change))
		refused(t, name, err)
	}
	c := client.Shell("c", "true")
	c.Image.Image = "docker.io/library/not-pulled:latest"
	_, err := shared.Runtime.CreateContainer(within(t), &runtimeapi.CreateContainerRequest{PodSandboxId: p.ID, Config: c, SandboxConfig: p.Config})
	wantCode(t, "an image that is not there", err, codes.NotFound)
	r, err := shared.Runtime.ListContainers(within(t), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: p.ID}})
	if err != nil || len(r.GetContainers()) != 0 {
		t.Errorf("containers after refusals: %v, %v", r.GetContainers(), err)
	}
	if got := p.start("fine", "sleep 100").Sh("echo fine"); got != "fine\n" {
		t.Errorf("the pod gives %q", got)
	}
}

func TestUnknownIDs(t *testing.T) {
	unknown := strings.Repeat("0", 64)
	rt, ctx := shared.Runtime, within(t)
	// What removes or stops is done already.
	for name, err := range map[string]error{
		"StopPodSandbox":   second(rt.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: unknown})),
		"RemovePodSandbox": second(rt.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: unknown})),
		"StopContainer":    second(rt.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: unknown})),
		"RemoveContainer":  second(rt.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: unknown})),
		"RemoveImage":      second(shared.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: "none:such"}})),
	} {
		wantCode(t, name, err, codes.OK)
	}
	for name, err := range map[string]error{
		"PodSandboxStatus":         second(rt.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: unknown})),
		"ContainerStatus":          second(rt.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: unknown})),
		"StartContainer":           second(rt.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: unknown})),
		"ExecSync":                 second(rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: unknown, Cmd: []string{"true"}})),
		"Exec":                     second(rt.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: unknown, Cmd: []string{"true"}, Stdout: true})),
		"Attach":                   second(rt.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: unknown, Stdout: true})),
		"PortForward":              second(rt.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: unknown, Port: []int32{80}})),
		"ContainerStats":           second(rt.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: unknown})),
		"PodSandboxStats":          second(rt.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: unknown})),
		"UpdateContainerResources": second(rt.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: unknown, Linux: &runtimeapi.LinuxContainerResources{}})),
		"ReopenContainerLog":       second(rt.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: unknown})),
		"CreateContainer": second(rt.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: unknown, SandboxConfig: shared.podConfig(t),
			Config: &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: busybox}}})),
	} {
		wantCode(t, name, err, codes.NotFound)
	}
	c := shared.pod(t).start("c", "sleep 100")
	_, err := rt.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.ID, Timeout: -1})
	wantCode(t, "a negative timeout", err, codes.InvalidArgument)
	_, err = rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"true"}, Timeout: -1})
	wantCode(t, "a negative timeout", err, codes.InvalidArgument)
	_, err = rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.ID})
	wantCode(t, "an empty command", err, codes.InvalidArgument)
	for _, ref := range []string{"", "test/UPPER", "a b", "x@sha256:abc", strings.Repeat("r", 1<<20), "http://a/b"} {
		_, err := shared.Images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
		wantCode(t, "pull of "+ref[:min(len(ref), 20)], err, codes.InvalidArgument)
	}
}

func second[T any](_ T, err error) error { return err }
