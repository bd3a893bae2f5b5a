package oci

import (
	"errors"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func withNamespaces(o *runtimeapi.NamespaceOption) func(*specInput) {
	return func(in *specInput) { in.security().NamespaceOptions = o }
}

func cgroupParent(parent string) func(*specInput) {
	return func(in *specInput) { in.pod.Config.Linux.CgroupParent = parent }
}

func withMount(m *runtimeapi.Mount) func(*specInput) {
	return func(in *specInput) { in.bind(m) }
}

// refusal is a change of [baseInput] that Spec must refuse, with the sentinel
// and a part of the text.
type refusal struct {
	change func(*specInput)
	is     error
	text   string
}

var refusals = map[string]refusal{
	"no command":  {func(in *specInput) { in.img.Entrypoint, in.img.Cmd = nil, nil }, ErrInvalid, "no command"},
	"NUL in args": {func(in *specInput) { in.ctr.Config.Args = []string{"a\x00b"} }, ErrInvalid, "NUL"},
	"binary env":  {func(in *specInput) { in.ctr.Config.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte{0xff}}} }, ErrInvalid, "envs: the value of \"A\" is not UTF-8"},
	"bad env":     {func(in *specInput) { in.ctr.Config.Envs = []*runtimeapi.KeyValue{{Key: "A=B"}} }, ErrInvalid, "envs"},
	"unknown capability": {func(in *specInput) {
		in.security().Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"FLY"}}
	}, ErrInvalid, `"FLY"`},
	"unknown drop": {func(in *specInput) {
		in.security().Capabilities = &runtimeapi.Capability{DropCapabilities: []string{""}}
	}, ErrInvalid, "drop_capabilities"},
	"privileged in plain":   {func(in *specInput) { in.security().Privileged = true }, ErrInvalid, "privileged"},
	"node pid in plain pod": {withNamespaces(&runtimeapi.NamespaceOption{Pid: modeNode}), ErrInvalid, "pid mode NODE"},
	"pod pid not shared":    {withNamespaces(&runtimeapi.NamespaceOption{Pid: modePod}), ErrInvalid, "CONTAINER"},
	"node net in plain pod": {withNamespaces(&runtimeapi.NamespaceOption{Network: modeNode, Pid: modeContainer}), ErrInvalid, "network"},
	"own ipc":               {withNamespaces(&runtimeapi.NamespaceOption{Ipc: modeContainer, Pid: modeContainer}), ErrInvalid, "ipc"},
	"target gone":           {withNamespaces(&runtimeapi.NamespaceOption{Pid: modeTarget, TargetId: "x"}), ErrInvalid, "target_id"},
	"user namespace not the pod's": {withNamespaces(&runtimeapi.NamespaceOption{Pid: modeContainer, UsernsOptions: &runtimeapi.UserNamespace{
		Uids: []*runtimeapi.IDMapping{{HostId: 1, Length: 1}}, Gids: []*runtimeapi.IDMapping{{HostId: 1, Length: 1}}}}), ErrInvalid, "userns_options"},
	"mount at root":       {withMount(&runtimeapi.Mount{ContainerPath: "/..", HostPath: "/v"}), ErrInvalid, "container_path"},
	"mount path too long": {withMount(&runtimeapi.Mount{ContainerPath: strings.Repeat("/x", 1<<19), HostPath: "/v"}), ErrInvalid, "longer"},
	"mount without path":  {withMount(&runtimeapi.Mount{HostPath: "/v"}), ErrInvalid, "container_path"},
	"bad mount that is covered": {func(in *specInput) {
		in.bind(&runtimeapi.Mount{ContainerPath: "/v/", HostPath: "/v", Propagation: 9})
		in.bind(&runtimeapi.Mount{ContainerPath: "/v", HostPath: "/v"})
	}, ErrInvalid, "propagation"},
	"mount no source":     {withMount(&runtimeapi.Mount{ContainerPath: "/v"}), ErrInvalid, "no source"},
	"rro without ro":      {withMount(&runtimeapi.Mount{ContainerPath: "/v", HostPath: "/v", RecursiveReadOnly: true}), ErrInvalid, "readonly"},
	"rro shared":          {withMount(&runtimeapi.Mount{ContainerPath: "/v", HostPath: "/v", Readonly: true, RecursiveReadOnly: true, Propagation: 2}), ErrInvalid, "PRIVATE"},
	"unknown propagation": {withMount(&runtimeapi.Mount{ContainerPath: "/v", HostPath: "/v", Propagation: 9}), ErrInvalid, "propagation"},
	"mount option":        {withMount(&runtimeapi.Mount{ContainerPath: "/v", HostPath: "/v", MountOptions: []string{"suid"}}), ErrInvalid, `"suid"`},
	"half a mapping":      {withMount(&runtimeapi.Mount{ContainerPath: "/v", HostPath: "/v", UidMappings: []*runtimeapi.IDMapping{{Length: 1}}}), ErrInvalid, "gidMappings"},
	"writable image":      {withMount(&runtimeapi.Mount{ContainerPath: "/v", Image: &runtimeapi.ImageSpec{Image: "i"}}), ErrInvalid, "readonly"},
	"rro on old kernel": {func(in *specInput) {
		in.host.RRO = false
		in.bind(&runtimeapi.Mount{ContainerPath: "/v", HostPath: "/v", Readonly: true, RecursiveReadOnly: true})
	}, ErrUnsupported, "5.12"},
	"a label with two types": {func(in *specInput) {
		in.selinux("s0:c1,c2")
		in.security().SelinuxOptions = &runtimeapi.SELinuxOption{Type: "a_t:s0:b_t"}
	}, ErrInvalid, "selinux_options.type"},
	"a label that ends its option": {func(in *specInput) {
		in.selinux("s0:c1,c2")
		in.security().SelinuxOptions = &runtimeapi.SELinuxOption{Level: `s0",uid=0`}
	}, ErrInvalid, "selinux_options.level"},
	"a label with a long type": {func(in *specInput) {
		in.selinux("s0:c1,c2")
		in.security().SelinuxOptions = &runtimeapi.SELinuxOption{Type: strings.Repeat("t", maxLabelName+1)}
	}, ErrInvalid, "selinux_options.type"},
	"a label with a long level": {func(in *specInput) {
		in.selinux("s0:c1,c2")
		in.security().SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:" + strings.Repeat("c", maxLabelLevel-len("s0:")+1)}
	}, ErrInvalid, "selinux_options.level"},
	"no type for containers": {func(in *specInput) {
		in.host.SELinux = true
		in.security().SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:c1,c2"}
	}, ErrUnsupported, "module container"},
	"seccomp not loaded": {func(in *specInput) { seccompLocalhostCase(in); in.ctr.Seccomp = nil }, ErrInvalid, "not loaded"},
	"no seccomp":         {func(in *specInput) { seccompLocalhostCase(in); in.host.Seccomp = false }, ErrUnsupported, "seccomp"},
	"no apparmor": {func(in *specInput) {
		in.security().Apparmor = &runtimeapi.SecurityProfile{ProfileType: profileLocalhost, LocalhostRef: "x"}
	}, ErrUnsupported, "AppArmor"},
	"old apparmor string": {func(in *specInput) { in.security().ApparmorProfile = "nope" }, ErrInvalid, "localhost/NAME"},
	"unified on v1":       {func(in *specInput) { in.host = v1Host(); in.linux().Resources = allResources() }, ErrUnsupported, "cgroup v2"},
	"unified path": {func(in *specInput) {
		in.linux().Resources = &runtimeapi.LinuxContainerResources{Unified: map[string]string{"../memory.max": "1"}}
	}, ErrInvalid, "unified"},
	"negative shares": {func(in *specInput) { in.linux().Resources = &runtimeapi.LinuxContainerResources{CpuShares: -1} }, ErrInvalid, "cpu_shares"},
	"swap alone": {func(in *specInput) {
		in.linux().Resources = &runtimeapi.LinuxContainerResources{MemorySwapLimitInBytes: 5}
	}, ErrInvalid, "memory_limit"},
	"swap below memory": {func(in *specInput) {
		in.linux().Resources = &runtimeapi.LinuxContainerResources{MemorySwapLimitInBytes: 5, MemoryLimitInBytes: 6}
	}, ErrInvalid, "together"},
	"no slice":                  {func(in *specInput) { in.host.SystemdCgroup = true }, ErrInvalid, ".slice"},
	"cgroup parent that climbs": {cgroupParent("../../x"), ErrInvalid, "cgroup_parent"},
	"cgroup parent ..":          {cgroupParent("/a/../../b"), ErrInvalid, "cgroup_parent"},
	"cgroup parent :":           {cgroupParent("a.slice:berth:b"), ErrInvalid, "cgroup_parent"},
	"cgroup parent long":        {cgroupParent("/a/" + strings.Repeat("b", 256)), ErrInvalid, "cgroup_parent"},
	"no config":                 {func(in *specInput) { in.pod.Config = nil }, ErrInvalid, "missing"},
}

func TestSpecRefuses(t *testing.T) {
	for name, c := range refusals {
		t.Run(name, func(t *testing.T) {
			in := baseInput()
			c.change(in)
			_, err := Spec(in.pod, in.ctr, in.img, in.host)
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v with %q", err, c.is, c.text)
			}
		})
	}
}

func TestNamespacesOfRefuses(t *testing.T) {
	one := []*runtimeapi.IDMapping{{HostId: 1000, Length: 10}}
	user := func(u *runtimeapi.UserNamespace) *runtimeapi.NamespaceOption {
		return &runtimeapi.NamespaceOption{UsernsOptions: u}
	}
	for name, o := range map[string]*runtimeapi.NamespaceOption{
		"net container":     {Network: modeContainer},
		"ipc target":        {Ipc: modeTarget},
		"pid target":        {Pid: modeTarget},
		"user container":    user(&runtimeapi.UserNamespace{Mode: modeContainer}),
		"user target":       user(&runtimeapi.UserNamespace{Mode: modeTarget}),
		"user no mapping":   user(&runtimeapi.UserNamespace{}),
		"user two mappings": user(&runtimeapi.UserNamespace{Uids: append(one, one...), Gids: one}),
		"user no root":      user(&runtimeapi.UserNamespace{Uids: []*runtimeapi.IDMapping{{ContainerId: 1, HostId: 1, Length: 1}}, Gids: one}),
		"user overflow":     user(&runtimeapi.UserNamespace{Uids: []*runtimeapi.IDMapping{{HostId: 1 << 31, Length: 1 << 31}}, Gids: one}),
		"node with maps":    user(&runtimeapi.UserNamespace{Mode: modeNode, Uids: one}),
		"user and node pid": {Pid: modeNode, UsernsOptions: &runtimeapi.UserNamespace{Uids: one, Gids: one}},
	} {
		config := &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: o},
		}}
		if _, err := NamespacesOf(config); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestCgroupsPath(t *testing.T) {
	for _, c := range []struct {
		parent  string
		systemd bool
		want    string
	}{
		{"", false, "/berth/id"},
		{"/kubepods/pod1", false, "/kubepods/pod1/id"},
		{"x/./y//", false, "/x/y/id"},
		{"", true, "system.slice:berth:id"},
		{"/a.slice/a-b.slice/", true, "a-b.slice:berth:id"},
	} {
		got, err := CgroupsPath(c.parent, "id", Host{SystemdCgroup: c.systemd})
		if err != nil || got != c.want {
			t.Errorf("%q: got %q, %v", c.parent, got, err)
		}
	}
}

// A pod whose pause is gone is no fault of the request.
func TestSpecNeedsPause(t *testing.T) {
	in := baseInput()
	in.pod.PID = 0
	if _, err := Spec(in.pod, in.ctr, in.img, in.host); err == nil || errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
	hostNamespacesCase(in)
	if _, err := Spec(in.pod, in.ctr, in.img, in.host); err != nil {
		t.Errorf("without namespaces to join: %v", err)
	}
}
