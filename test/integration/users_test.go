package integration

import (
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The root of a user namespace has what root has elsewhere: the pod's files to
// write and the devices it was given, under any name.
func TestRootOfAUserNamespace(t *testing.T) {
	maps := []*runtimeapi.IDMapping{{HostId: 1 << 20, Length: 1 << 16}}
	options := &runtimeapi.NamespaceOption{
		UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: maps, Gids: maps},
	}
	p := shared.pod(t, namespaces(options))
	c := p.start("root", "sleep 1000", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: options}
		c.Devices = []*runtimeapi.Device{
			{HostPath: "/dev/zero", ContainerPath: "/dev/nothing", Permissions: "r"},
			{HostPath: "/dev/zero", ContainerPath: "/dev/fuse", Permissions: "r"}, // a name that the host has for another
			{HostPath: "/dev/kmsg", ContainerPath: "/dev/kmsg", Permissions: "r"},
		}
	})
	if got := c.Sh("for f in hostname hosts resolv.conf; do echo x >/etc/$f; cat /etc/$f; done"); got != "x\nx\nx\n" {
		t.Errorf("the pod's files: %q", got)
	}
	got := c.Sh("head -c 3 /dev/nothing | wc -c; stat -c %t:%T /dev/nothing /dev/fuse /dev/kmsg")
	if got := strings.Join(strings.Fields(got), " "); got != "3 1:5 1:5 1:b" {
		t.Errorf("the devices: %s", got)
	}
}

// An exec in a user namespace may open its own output again, as probes and hooks do
// that write to /dev/stderr.
func TestExecOpensItsOutputInAUserNamespace(t *testing.T) {
	maps := []*runtimeapi.IDMapping{{HostId: 1 << 21, Length: 1 << 16}}
	options := &runtimeapi.NamespaceOption{
		UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: maps, Gids: maps},
	}
	p := shared.pod(t, namespaces(options))
	const script = "echo one; echo two >/dev/stdout; echo three >/dev/stderr"
	for name, user := range map[string]int64{"root": 0, "user": 1000} {
		c := p.start(name, "sleep 1000", func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: options, RunAsUser: &runtimeapi.Int64Value{Value: user},
			}
		})
		r, err := c.execSync(10, "sh", "-c", script)
		if err != nil || string(r.GetStdout()) != "one\ntwo\n" || string(r.GetStderr()) != "three\n" {
			t.Errorf("%s: ExecSync gives %q, %q, %v", name, r.GetStdout(), r.GetStderr(), err)
		}
	}
}
