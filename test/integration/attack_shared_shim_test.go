package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/node"
)

// TestAttackSharedShim runs pods of every kind one after the other in one shim and
// wants that containers made after them are as those made before: devices and their
// owners, limits, signals, umask, keyring, OOM score, capabilities, groups, namespaces,
// open files, scheduling. The shim and libcontainer live long and must not remember.
func TestAttackSharedShim(t *testing.T) {
	s := own(t, node.Options{})
	const plain, users = "plain", "user namespace"
	references := map[string]podKind{plain: {}, users: {pod: withUsers(400000)}}
	before := map[string]map[string]string{}
	for _, name := range []string{plain, users} { // the plain one in a shim that ran nothing
		before[name] = s.factsOf(t, name, references[name])
	}
	shim := s.shim(t)
	for name, kind := range everyKind(t) {
		s.factsOf(t, name, kind)
	}
	if now := s.shim(t); now != shim {
		t.Fatalf("the pods ran in shim %d, the first ones in %d", now, shim)
	}
	for name, kind := range references {
		after := s.factsOf(t, name, kind)
		for process, facts := range before[name] {
			if d := cmp.Diff(strings.Split(facts, "\n"), strings.Split(after[process], "\n")); d != "" {
				t.Errorf("%s, %s: (-before +after)\n%s", name, process, d)
			}
		}
	}
}

// podKind changes a pod and its container, nil leaves them.
type podKind struct {
	pod func(*runtimeapi.PodSandboxConfig)
	ctr func(*runtimeapi.ContainerConfig)
}

func withUsers(host uint32) func(*runtimeapi.PodSandboxConfig) {
	line := []*runtimeapi.IDMapping{{HostId: host, Length: 65536}}
	return namespaces(&runtimeapi.NamespaceOption{
		UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: line, Gids: line},
	})
}

func everyKind(t *testing.T) map[string]podKind {
	node := runtimeapi.NamespaceMode_NODE
	change := func(f func(*runtimeapi.LinuxContainerConfig)) podKind {
		return podKind{ctr: func(c *runtimeapi.ContainerConfig) { f(c.Linux) }}
	}
	guard := func(f func(*runtimeapi.LinuxContainerSecurityContext)) podKind {
		return change(func(l *runtimeapi.LinuxContainerConfig) { f(l.SecurityContext) })
	}
	return map[string]podKind{
		"users":        {pod: withUsers(500000)},
		"other users":  {pod: withUsers(600000)},
		"host network": {pod: namespaces(&runtimeapi.NamespaceOption{Network: node})},
		"host pid":     {pod: namespaces(&runtimeapi.NamespaceOption{Pid: node})},
		"host ipc":     {pod: namespaces(&runtimeapi.NamespaceOption{Ipc: node})},
		"own pid":      {pod: namespaces(&runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER})},
		"init":         {pod: func(c *runtimeapi.PodSandboxConfig) { c.Annotations = map[string]string{"berth/init": "true"} }},
		"sysctls": {pod: func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_forward": "1"}
		}},
		"privileged": {pod: privilegedPod, ctr: func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.Privileged = true }},
		"pod's user": {pod: func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{
				RunAsUser: &runtimeapi.Int64Value{Value: 4000}, RunAsGroup: &runtimeapi.Int64Value{Value: 4001}, SupplementalGroups: []int64{4002},
			}
		}},
		"user": guard(func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.RunAsUser, sc.RunAsGroup = &runtimeapi.Int64Value{Value: 5000}, &runtimeapi.Int64Value{Value: 5001}
			sc.SupplementalGroups = []int64{5002, 5003}
		}),
		"no new privileges": guard(func(sc *runtimeapi.LinuxContainerSecurityContext) { sc.NoNewPrivs, sc.ReadonlyRootfs = true, true }),
		"all capabilities": guard(func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"NET_RAW"}}
		}),
		"no capabilities": guard(func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}
		}),
		"seccomp": {ctr: filtered(runtimeapi.SecurityProfile_Localhost, profile(t, "SCMP_ACT_ERRNO", "swapon"))},
		"limits": change(func(l *runtimeapi.LinuxContainerConfig) {
			l.Resources = &runtimeapi.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, CpusetCpus: "0", MemoryLimitInBytes: 64 << 20, OomScoreAdj: 900}
		}),
		"device": {ctr: func(c *runtimeapi.ContainerConfig) {
			c.Devices = append(c.Devices, &runtimeapi.Device{ContainerPath: "/dev/full", HostPath: "/dev/zero", Permissions: "r"})
		}},
		"terminal": {ctr: func(c *runtimeapi.ContainerConfig) { c.Tty, c.Stdin = true, true }},
	}
}

// factsOf runs a pod of a kind and asks its container's first process and a command
// executed in it for what they have.
func (s *suite) factsOf(t *testing.T, name string, kind podKind) map[string]string {
	t.Helper()
	p := s.pod(t, named(strings.ReplaceAll(name, " ", "-")), func(c *runtimeapi.PodSandboxConfig) {
		if kind.pod != nil {
			kind.pod(c)
		}
	})
	mount := withProbe(t)
	c := p.start("c", probePath+" facts; echo done; sleep 1000", mount, func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: p.Config.GetLinux().GetSecurityContext().GetNamespaceOptions(),
		}
		if kind.ctr != nil {
			kind.ctr(c)
		}
	})
	waitFor(t, c.LogFile(), func(text string) bool { return strings.Contains(text, " done") })
	facts := map[string]string{"first process": output(readLog(t, c.LogFile()), "stdout"), "namespaces": namespacesOf(t, c.hostPID())}
	r, err := c.execSync(20, probePath, "facts")
	if err != nil || r.GetExitCode() != 0 {
		t.Fatalf("exec in %s: %v, %v", name, err, r)
	}
	facts["executed"] = string(r.GetStdout())
	p.End()
	return facts
}

// namespacesOf tells which namespaces of a process are the host's.
func namespacesOf(t *testing.T, pid int) string {
	t.Helper()
	files, err := filepath.Glob("/proc/self/ns/*")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range files {
		host, err := os.Readlink(f)
		if err != nil {
			t.Fatal(err)
		}
		kind := filepath.Base(f)
		all = append(all, fmt.Sprintf("%s: the host's %v", kind, inode(t, fmt.Sprint(pid), kind) == host))
	}
	return strings.Join(all, "\n")
}
