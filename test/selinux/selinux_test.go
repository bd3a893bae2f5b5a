package selinux

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/selinux/go-selinux"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// labelled is a pod with a container whose volume asks for its label, as the kubelet's
// /etc/hosts does.
type labelled struct {
	*client.Pod
	ctr           *client.Container
	volume, hosts string
}

func startLabelled(t *testing.T, name string) labelled {
	t.Helper()
	l := labelled{Pod: pod(t, name), volume: volume(t, "before", "of "+name)}
	l.hosts = filepath.Join(volume(t, "etc-hosts", "127.0.0.1 kubelets-"+name+"\n"), "etc-hosts")
	l.ctr = l.Start(shell(l.Pod, "first", "echo secret of "+name+" >/own; echo shared >/dev/shm/f; "+sleeper, func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/volume", HostPath: l.volume, SelinuxRelabel: true},
			{ContainerPath: "/etc/hosts", HostPath: l.hosts, SelinuxRelabel: true},
		}
	}))
	await(l.ctr)
	return l
}

// level is the level of the label of a process, which must be of containers.
func level(t *testing.T, what, label string) string {
	t.Helper()
	label = strings.TrimRight(label, "\x00\n")
	before, after, found := strings.Cut(label, ":container_t:")
	if !found || before != "system_u:system_r" || !strings.HasPrefix(after, "s0:c") {
		t.Errorf("%s has the label %q", what, label)
	}
	return after
}

// TestSELinuxLabels: pause, first process, exec and init of a pod have one label, that of
// another pod has other categories, and the files are labelled with the same level.
func TestSELinuxLabels(t *testing.T) {
	onSELinux(t)
	a, b := startLabelled(t, "a"), startLabelled(t, "b")
	at := level(t, "the first process", labelOf(a.ctr))
	for what, label := range map[string]string{
		"a command":           a.ctr.Sh("cat /proc/self/attr/current"),
		"pause":               labelOfPause(a.Pod),
		"a second container":  labelOf(idle(a.Pod, "second")),
		"a shared PID, pause": labelOfPause(sharedPIDPod(t)),
	} {
		if got := level(t, what, label); got != at && !strings.HasPrefix(what, "a shared") {
			t.Errorf("%s has the level %s, the first process %s", what, got, at)
		}
	}
	if got := level(t, "the other pod", labelOf(b.ctr)); got == at {
		t.Errorf("both pods have the level %s", got)
	}
	root := filepath.Join(shared.State, "containers", a.ctr.ID, "rootfs")
	for _, file := range []string{root + "/own", root + "/bin/busybox", a.volume, a.volume + "/before", a.hosts, filepath.Join(shared.Root, "pods", a.ID, "resolv.conf"), filepath.Join(shared.State, "pods", a.ID, "shm", "f")} {
		label, err := selinux.LfileLabel(file)
		if err != nil || !strings.HasSuffix(label, ":object_r:container_file_t:"+at) {
			t.Errorf("%s has the label %q, %v; the level of the pod is %s", file, label, err, at)
		}
	}
	if got := berth(t, "explain", a.ctr.ID); !strings.Contains(got, "container_t:"+at) {
		t.Errorf("berth explain does not tell the label:\n%s", got)
	}
}

// sharedPIDPod is a pod whose pause is PID 1 of its containers, so that it is executed
// with a PID namespace of its own.
func sharedPIDPod(t *testing.T) *client.Pod {
	return pod(t, "pid", func(c *runtimeapi.LinuxSandboxSecurityContext) { c.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD })
}

// TestSELinuxFiles: a pod can use what it is meant to: its volume, its root, the kubelet's
// /etc/hosts, what the runtime makes for it, and an image.
func TestSELinuxFiles(t *testing.T) {
	onSELinux(t)
	a := startLabelled(t, "a")
	second := idle(a.Pod, "second", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/same", HostPath: a.volume},
			{ContainerPath: "/image", Image: &runtimeapi.ImageSpec{Image: client.Busybox}, Readonly: true},
		}
	})
	for script, want := range map[string]string{
		"cat /volume/before":                            "of a",
		"echo new >/volume/after; cat /volume/after":    "new\n",
		"cat /etc/hosts":                                "127.0.0.1 kubelets-a\n",
		"cat /own":                                      "secret of a\n",
		"test -r /etc/resolv.conf && cat /dev/shm/f":    "shared\n",
		"echo x >/dev/null; echo y >/tmp/f; cat /tmp/f": "y\n",
	} {
		if got := a.ctr.Sh(script); got != want {
			t.Errorf("%s says %q, want %q", script, got, want)
		}
	}
	if got := second.Sh("cat /same/before; cat /dev/shm/f; test -x /image/bin/sh && echo image"); got != "of ashared\nimage\n" {
		t.Errorf("the second container of the pod reads %q", got)
	}
}

// TestAttackSELinuxNeighbour: a pod that gets at the paths of another pod's files, of a
// volume without a label for it or of the host, as by an escape or a hostPath, can't read
// them.
func TestAttackSELinuxNeighbour(t *testing.T) {
	onSELinux(t)
	enforced(t)
	a := startLabelled(t, "a")
	plain := volume(t, "before", "plain")
	for _, path := range []string{plain, filepath.Join(plain, "before")} { // as in /srv: a type that is not of containers
		if err := selinux.SetFileLabel(path, "system_u:object_r:var_t:s0"); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(shared.State, "containers", a.ctr.ID, "rootfs")
	b := idle(pod(t, "b"), "thief", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/volume", HostPath: a.volume}, {ContainerPath: "/hosts-of-a", HostPath: a.hosts},
			{ContainerPath: "/root-of-a", HostPath: root}, {ContainerPath: "/plain", HostPath: plain},
			{ContainerPath: "/host", HostPath: "/etc"},
		}
	})
	for _, file := range []string{"/volume/before", "/hosts-of-a", "/root-of-a/own", "/plain/before", "/host/shadow"} {
		if got := b.Sh("cat " + file + " 2>&1 || true"); !strings.Contains(got, "Permission denied") {
			t.Errorf("reading %s says %q", file, got)
		}
	}
	if got := b.Sh("echo x 2>&1 >/volume/new || true"); !strings.Contains(got, "Permission denied") {
		t.Errorf("writing to the volume says %q", got)
	}
}

// TestSELinuxOpen: what is privileged, and what shares the host's processes, is not
// confined by a label, unless it asks for a type.
func TestSELinuxOpen(t *testing.T) {
	onSELinux(t)
	plain := volume(t, "before", "plain")
	for name, change := range map[string]func(*runtimeapi.LinuxSandboxSecurityContext, *runtimeapi.LinuxContainerSecurityContext){
		"privileged": func(p *runtimeapi.LinuxSandboxSecurityContext, c *runtimeapi.LinuxContainerSecurityContext) {
			p.Privileged, c.Privileged = true, true
		},
		"host-pid": func(p *runtimeapi.LinuxSandboxSecurityContext, c *runtimeapi.LinuxContainerSecurityContext) {
			p.NamespaceOptions.Pid = runtimeapi.NamespaceMode_NODE
			c.NamespaceOptions = p.NamespaceOptions
		},
	} {
		cs := &runtimeapi.LinuxContainerSecurityContext{}
		p := pod(t, name, func(ps *runtimeapi.LinuxSandboxSecurityContext) {
			cs.NamespaceOptions = ps.NamespaceOptions
			change(ps, cs)
		})
		c := idle(p, "open", func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext = cs
			c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/plain", HostPath: plain, SelinuxRelabel: true}}
		})
		if got := c.Sh("cat /proc/self/attr/current"); strings.Contains(got, "container_t") {
			t.Errorf("%s: the label is %q", name, got)
		}
		if got := c.Sh("cat /plain/before"); got != "plain" {
			t.Errorf("%s: it reads %q", name, got)
		}
		if label, _ := selinux.LfileLabel(plain); strings.Contains(label, "container_file_t") {
			t.Errorf("%s: its volume was given the label %q, though it needs none", name, label)
		}
	}
}

// TestSELinuxRefuses: labels that the policy does not know, and volumes that the machine
// needs as they are.
func TestSELinuxRefuses(t *testing.T) {
	onSELinux(t)
	config := podConfig(t, "unknown")
	config.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Type: "no_such_type_t"}
	_, err := shared.RunPod(client.Within(t), config)
	wantCode(t, "a pod with a type that is unknown", err, codes.InvalidArgument)
	p := pod(t, "a")
	for what, change := range map[string]func(*runtimeapi.ContainerConfig){
		"a level without categories that exist": func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:c5000"}
		},
		"relabelling /etc": func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/v", HostPath: "/etc", SelinuxRelabel: true}}
		},
		"relabelling /": func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/v", HostPath: "/", SelinuxRelabel: true}}
		},
	} {
		_, err := p.TryCreate(shell(p, "refused", "true", change))
		wantCode(t, what, err, codes.InvalidArgument)
	}
	if label, err := selinux.LfileLabel("/etc"); err != nil || strings.Contains(label, "container_file_t") {
		t.Errorf("/etc has the label %q, %v", label, err)
	}
}

// TestSELinuxOptions: a container with a level of its own can use its volume, and still
// the files of its pod.
func TestSELinuxOptions(t *testing.T) {
	onSELinux(t)
	a := startLabelled(t, "a")
	const own = "s0:c1000,c1001"
	v := volume(t, "before", "v")
	c := idle(a.Pod, "own", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Level: own}
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/v", HostPath: v, SelinuxRelabel: true}}
	})
	if got := level(t, "the container", labelOf(c)); got != own {
		t.Errorf("the level is %s", got)
	}
	for _, ctr := range []*client.Container{c, a.ctr} {
		ctr.Sh("test -r /etc/resolv.conf && test -r /etc/hostname && echo x >/dev/shm/by-" + ctr.ID + " && cat /etc/hosts")
	}
	if got := c.Sh("cat /v/before"); got != "v" {
		t.Errorf("its volume reads %q", got)
	}
}
