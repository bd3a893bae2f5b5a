package selinux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/selinux/go-selinux"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
	"berth/oci/thread"
	"berth/test/client"
	"berth/test/node"
	"berth/test/registry"
)

// sleeper prints a line once it is what the kernel executes.
const sleeper = "echo up; exec sleep 1000"

// machine is the node of all tests.
type machine struct {
	*node.Node
	images *registry.Registry
}

// shared is started by the first test that needs it and ends after the last.
var shared *machine

var begin = sync.OnceValue(func() error {
	images, err := registry.Start()
	if err != nil {
		return err
	}
	busybox, err := registry.Busybox()
	if err == nil {
		err = images.Push(client.Busybox, busybox)
	}
	if err != nil {
		return errors.Join(err, images.Close())
	}
	thread.Run(func() {
		if err = labelNode(); err == nil {
			shared = &machine{images: images}
			shared.Node, err = node.Start(context.Background(), node.Options{Registry: images, NoNetwork: true})
		}
	})
	if err != nil {
		shared = nil
		return errors.Join(err, images.Close())
	}
	return nil
})

// labelNode gives what this thread makes the labels that it would have on a node: the
// directories those of /var/lib/containerd, which are inherited by what is in them, and the
// socket that hears when the daemon is ready that of systemd's.
func labelNode() error {
	return errors.Join(
		selinux.SetFSCreateLabel("system_u:object_r:container_var_lib_t:s0"),
		selinux.SetSocketLabel("system_u:system_r:init_t:s0"),
	)
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared != nil {
		if err := errors.Join(shared.Close(), shared.images.Close()); err != nil {
			fmt.Println("after all tests:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// onSELinux starts the node. It skips where there is no SELinux.
func onSELinux(t *testing.T) {
	t.Helper()
	switch {
	case os.Geteuid() != 0:
		t.Skip("not root")
	case !selinux.GetEnabled():
		t.Skip("this host has no SELinux")
	}
	if _, err := os.Stat("../../bin/berthd"); err != nil {
		t.Skip("no bin/berthd: run make build first")
	}
	if err := begin(); err != nil {
		t.Fatal(err)
	}
}

// enforced skips what only an enforcing kernel denies.
func enforced(t *testing.T) {
	t.Helper()
	if selinux.EnforceMode() != selinux.Enforcing {
		t.Skip("SELinux is permissive: it denies nothing")
	}
}

// kit makes pods for a test.
func kit(t *testing.T) *client.Kit {
	return &client.Kit{Client: shared.Client, T: t, LogDir: shared.LogDir, Namespace: "test"}
}

// podConfig is a pod of the host's network.
func podConfig(t *testing.T, name string) *runtimeapi.PodSandboxConfig {
	t.Helper()
	c := kit(t).PodConfig(name)
	c.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{
		Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER,
	}}
	return c
}

// pod runs a pod that ends with the test.
func pod(t *testing.T, name string, change ...func(*runtimeapi.LinuxSandboxSecurityContext)) *client.Pod {
	t.Helper()
	c := podConfig(t, name)
	for _, f := range change {
		f(c.Linux.SecurityContext)
	}
	p := kit(t).Run(c)
	t.Cleanup(p.End)
	return p
}

// idle starts a container and waits until its command is what the kernel executes.
func idle(p *client.Pod, name string, change ...func(*runtimeapi.ContainerConfig)) *client.Container {
	p.T.Helper()
	c := p.Start(shell(p, name, sleeper, change...))
	await(c)
	return c
}

// shell is a container of the namespaces of its pod.
func shell(p *client.Pod, name, script string, change ...func(*runtimeapi.ContainerConfig)) *runtimeapi.ContainerConfig {
	c := client.Shell(name, script)
	c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: p.Config.Linux.SecurityContext.GetNamespaceOptions()}
	for _, f := range change {
		f(c)
	}
	return c
}

func await(c *client.Container) {
	c.T.Helper()
	client.Eventually(c.T, "the container says that it is up", func() bool {
		log, err := os.ReadFile(c.LogFile())
		return err == nil && strings.Contains(string(log), "up")
	})
}

// volume is a directory of the node for one test, with a file.
func volume(t *testing.T, name, content string) string {
	t.Helper()
	dir, err := os.MkdirTemp(shared.Dir, "volume-")
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// labelOf is the label of a container's first process.
func labelOf(c *client.Container) string {
	c.T.Helper()
	return labelIn(c.T, filepath.Join("pods", c.Pod.ID, "containers", c.ID))
}

// labelOfPause is the label of a pod's pause process.
func labelOfPause(p *client.Pod) string {
	p.T.Helper()
	return labelIn(p.T, filepath.Join("pods", p.ID))
}

// labelIn is the label of the process that a shim's record in a directory names.
func labelIn(t *testing.T, dir string) string {
	t.Helper()
	var fact shimapi.Record
	if err := atomicfile.Read(filepath.Join(shared.Root, dir, shimapi.RecordName), &fact); err != nil {
		t.Fatal(err)
	}
	label, err := selinux.PidLabel(fact.PID)
	if err != nil {
		t.Fatal(err)
	}
	return label
}

// berth runs the operator's program on the node's records.
func berth(t *testing.T, args ...string) string {
	t.Helper()
	all := append([]string{"--config", os.DevNull, "--root", shared.Root, "--state", shared.State}, args...)
	out, err := exec.CommandContext(client.Within(t), "../../bin/berth", all...).CombinedOutput()
	if err != nil {
		t.Fatalf("berth %q: %v: %s", args, err, out)
	}
	return string(out)
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %v, want code %v", what, err, want)
	}
}
