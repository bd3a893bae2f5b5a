package sandbox

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// wantRefusal wants an error that matches ErrInvalid, says so in words that do not
// repeat a long input, and does not print the sentinel.
func wantRefusal(t *testing.T, name string, err error) {
	t.Helper()
	wantError(t, name, err, ErrInvalid)
	if err != nil && (len(err.Error()) > 2<<10 || strings.HasSuffix(err.Error(), ": invalid") || strings.Contains(err.Error(), "invalid configuration")) {
		t.Errorf("%s: the text repeats the input or names the sentinel: %.200s", name, err)
	}
}

func TestPodConfigsThatAreRefused(t *testing.T) {
	group := &runtimeapi.Int64Value{Value: 1}
	for name, change := range map[string]func(*runtimeapi.PodSandboxConfig){
		"slash in the hostname": func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "a/b" },
		"long hostname":         func(c *runtimeapi.PodSandboxConfig) { c.Hostname = strings.Repeat("h", 65) },
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
		"cgroup parent ..": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.CgroupParent = "/a/../../b"
		},
		"cgroup parent :": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.CgroupParent = "a.slice:berth:b"
		},
		"cgroup parent long": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.CgroupParent = "/a/" + strings.Repeat("b", 256)
		},
		"port 70000":    func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 70000}} },
		"negative port": func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: -1}} },
		"port to 0":     func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 80}} },
		"host_ip":       func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{HostIp: "x"}} },
		"protocol":      func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{Protocol: 9}} },
		"group without user": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.RunAsGroup = group
		},
	} {
		cfg := networked("a")
		change(cfg)
		_, err := planOf(cfg, testHost())
		wantRefusal(t, name, err)
	}
}

func withMount(m *runtimeapi.Mount) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) { c.Mounts = []*runtimeapi.Mount{m} }
}

func resourcesOf(r *runtimeapi.LinuxContainerResources) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) { c.Linux.Resources = r }
}

func namespacesOf(c *runtimeapi.ContainerConfig) *runtimeapi.NamespaceOption {
	c.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	return c.Linux.SecurityContext.NamespaceOptions
}

// The rules of package oci have their own tables there; here is one case of each kind that
// reaches a client through the plan.
func TestContainerConfigsThatAreRefused(t *testing.T) {
	one := &runtimeapi.Int64Value{Value: 1}
	for name, change := range map[string]func(*runtimeapi.ContainerConfig){
		"relative working dir":  func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "tmp" },
		"log path that escapes": func(c *runtimeapi.ContainerConfig) { c.LogPath = "../../etc/passwd" },
		"absolute log path":     func(c *runtimeapi.ContainerConfig) { c.LogPath = "/log" },
		"zero byte in command":  func(c *runtimeapi.ContainerConfig) { c.Command = []string{"a\x00b"} },
		"variable without name": func(c *runtimeapi.ContainerConfig) { c.Envs = []*runtimeapi.KeyValue{{Value: []byte("x")}} },
		"stop signal":           func(c *runtimeapi.ContainerConfig) { c.StopSignal = 99 },
		"cpu_period":            resourcesOf(&runtimeapi.LinuxContainerResources{CpuPeriod: -1}),
		"cpu_quota":             resourcesOf(&runtimeapi.LinuxContainerResources{CpuQuota: -2}),
		"cpu_shares":            resourcesOf(&runtimeapi.LinuxContainerResources{CpuShares: -1}),
		"too few cpu_shares":    resourcesOf(&runtimeapi.LinuxContainerResources{CpuShares: 1}),
		"too many cpu_shares":   resourcesOf(&runtimeapi.LinuxContainerResources{CpuShares: 262145}),
		"memory":                resourcesOf(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: -2}),
		"swap":                  resourcesOf(&runtimeapi.LinuxContainerResources{MemorySwapLimitInBytes: -2}),
		"oom":                   resourcesOf(&runtimeapi.LinuxContainerResources{OomScoreAdj: 1001}),
		"group without user":    func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.RunAsGroup = one },
		"target without id": func(c *runtimeapi.ContainerConfig) {
			namespacesOf(c).Pid = runtimeapi.NamespaceMode_TARGET
		},
		"id without target": func(c *runtimeapi.ContainerConfig) { namespacesOf(c).TargetId = "x" },
		"network of container": func(c *runtimeapi.ContainerConfig) {
			namespacesOf(c).Network = runtimeapi.NamespaceMode_CONTAINER
		},
		"users differ": func(c *runtimeapi.ContainerConfig) {
			namespacesOf(c).UsernsOptions = &runtimeapi.UserNamespace{Uids: []*runtimeapi.IDMapping{{Length: 1}}}
		},
		"localhost without ref": func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost}
		},
		"profile of no type": func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: 9}
		},
		"ref without localhost": func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.Apparmor = &runtimeapi.SecurityProfile{LocalhostRef: "x"}
		},
		"mount to nowhere":      withMount(&runtimeapi.Mount{HostPath: "/a"}),
		"mount of nothing":      withMount(&runtimeapi.Mount{ContainerPath: "/a"}),
		"mount of two things":   withMount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/b", Image: &runtimeapi.ImageSpec{Image: "x"}}),
		"relative source":       withMount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "b"}),
		"relative target":       withMount(&runtimeapi.Mount{ContainerPath: "a", HostPath: "/b"}),
		"propagation":           withMount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/b", Propagation: 7}),
		"rro and not ro":        withMount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/b", RecursiveReadOnly: true}),
		"rro and propagation":   withMount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/b", RecursiveReadOnly: true, Readonly: true, Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL}),
		"sub path of a host":    withMount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/b", ImageSubPath: "x"}),
		"sub path that escapes": withMount(&runtimeapi.Mount{ContainerPath: "/a", Image: &runtimeapi.ImageSpec{Image: "x"}, ImageSubPath: "../x"}),
		"device permissions": func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: "/dev/null", Permissions: "rx"}}
		},
		"device of nothing": func(c *runtimeapi.ContainerConfig) { c.Devices = []*runtimeapi.Device{{ContainerPath: "/dev/null"}} },
	} {
		in := wishOf()
		change(in.ctr)
		_, err := in.plan()
		wantRefusal(t, name, err)
	}
}

func TestContainerConfigsThatAreTaken(t *testing.T) {
	in := wishOf()
	ids := []*runtimeapi.IDMapping{{HostId: 1000, Length: 10}}
	maps := &runtimeapi.UserNamespace{Mode: nsPod, Uids: ids, Gids: ids}
	in.pod.Linux.SecurityContext.Privileged = true
	in.pod.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: nsNode, UsernsOptions: maps}
	sc := in.security()
	sc.Privileged, sc.RunAsUser = true, &runtimeapi.Int64Value{Value: 5}
	sc.NamespaceOptions = &runtimeapi.NamespaceOption{
		Network: nsNode, Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "t",
		UsernsOptions: proto.Clone(maps).(*runtimeapi.UserNamespace),
	}
	in.ctr.LogPath = "a/0.log"
	in.ctr.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/a", HostPath: "/b", Readonly: true, RecursiveReadOnly: true},
		{ContainerPath: "/i", Image: &runtimeapi.ImageSpec{Image: "x"}, ImageSubPath: "sub"},
	}
	in.ctr.Devices = []*runtimeapi.Device{{HostPath: "/dev/null", ContainerPath: "/dev/n", Permissions: "rwm"}}
	if _, err := in.plan(); err != nil {
		t.Error(err)
	}
	bare := wishOf()
	bare.ctr.Linux = nil
	if _, err := bare.plan(); err != nil {
		t.Errorf("without a security context: %v", err)
	}
}

// An update with limits that no kernel takes is refused before the container is looked
// for, and one of a pod too.
func TestUpdatesThatAreRefused(t *testing.T) {
	n := newFakeNode(t)
	bad := &runtimeapi.LinuxContainerResources{OomScoreAdj: 1001}
	wantRefusal(t, "of a container", n.m.UpdateContainer(t.Context(), "none", bad, nil))
	wantRefusal(t, "of a pod's overhead", n.m.UpdatePodResources(t.Context(), "none", bad, nil))
	wantRefusal(t, "of a pod", n.m.UpdatePodResources(t.Context(), "none", nil, bad))
	if err := n.m.UpdatePodResources(t.Context(), "none", nil, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("a good one: %v", err)
	}
}
