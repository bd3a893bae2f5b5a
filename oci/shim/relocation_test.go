package shim_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/test/shimnode"
)

// mountAt mounts a file system on a new directory for the time of the test.
func mountAt(t *testing.T, kind, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("test", dir, kind, 0, options); err != nil {
		t.Skipf("no %s: %v", kind, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH) })
	return dir
}

// A container in a network namespace that a file holds gets a sysctl of it: libcontainer
// looks at that file when it makes the container, not only when it starts it.
func TestSysctlOfABoundNamespace(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	r := n.Run(pod, "cat /proc/sys/net/ipv4/ip_default_ttl", func(_ *shimapi.CreateRequest, s *specs.Spec) {
		for i := range s.Linux.Namespaces {
			if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
				s.Linux.Namespaces[i].Path = filepath.Join(n.Dir, "state", "pods", pod, "net")
			}
		}
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_default_ttl": "77"}
	})
	if end := n.Exit(r); end.ExitCode != 0 || !strings.Contains(n.Output(r), "77") {
		t.Errorf("exit code %d: %s", end.ExitCode, n.Output(r))
	}
}

// The socket of a seccomp agent and the directories that the options of a mount name are
// found, wherever on the host they are.
func TestPathsThatAreNotMounts(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	disk := mountAt(t, "tmpfs", "")
	agent, err := net.Listen("unix", filepath.Join(disk, "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	asked := make(chan struct{})
	go func() {
		if c, err := agent.Accept(); err == nil {
			close(asked)
			_ = c.Close()
		}
	}()
	r := n.Request(pod, "true", func(_ *shimapi.CreateRequest, s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, ListenerPath: agent.Addr().String(),
			Syscalls: []specs.LinuxSyscall{{Names: []string{"keyctl"}, Action: specs.ActNotify}},
		}
	})
	_, err = n.Shim.Create(n.Ctx, r) // what the agent does with it is its own business
	select {
	case <-asked:
	case <-time.After(20 * time.Second):
		t.Errorf("nobody asked the agent: %v", err)
	}
	for _, d := range []string{"lower", "upper"} {
		if err := os.Mkdir(filepath.Join(disk, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(disk, "lower", "mark"), []byte("lower\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r = n.Run(pod, "cat /mnt/mark", func(_ *shimapi.CreateRequest, s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{
			Destination: "/mnt", Type: "overlay", Source: "overlay",
			Options: []string{"ro", fmt.Sprintf("lowerdir=%s/lower:%s/upper", disk, disk)},
		})
	})
	if end := n.Exit(r); end.ExitCode != 0 || !strings.Contains(n.Output(r), "lower") {
		t.Errorf("exit code %d: %s", end.ExitCode, n.Output(r))
	}
}

// A source on a server that does not answer keeps the container's own process waiting, which
// a kill ends, and never a thread of the shim.
func TestSourceOnADeadServer(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no FUSE: %v", err)
	}
	defer unix.Close(fd)
	dead := mountAt(t, "fuse", fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd))
	r := n.Request(pod, "true", func(_ *shimapi.CreateRequest, s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: filepath.Join(dead, "sub"), Options: []string{"rbind", "rprivate"}})
	})
	created := make(chan error, 1)
	go func() {
		_, err := n.Shim.Create(n.Ctx, r)
		created <- err
	}()
	shimnode.Eventually(t, "a process waits for the server", func() bool { return len(stuck("runc:[")) > 0 })
	if of := stuck("berth-shim"); len(of) > 0 {
		t.Errorf("threads of the shim wait for the server: %q", of)
	}
	if err := n.Shim.Delete(n.Ctx, r.ID); err != nil {
		t.Errorf("delete: %v", err)
	}
	select {
	case err := <-created:
		if err == nil {
			t.Error("a container was made")
		}
	case <-time.After(30 * time.Second):
		t.Error("the creation goes on after its container was removed")
	}
}

// stuck are the threads of that name in this PID namespace that wait for a FUSE server.
func stuck(name string) (found []string) {
	tasks, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*")
	for _, task := range tasks {
		comm, _ := os.ReadFile(task + "/comm")
		where, _ := os.ReadFile(task + "/wchan")
		if strings.HasPrefix(string(comm), name) && strings.Contains(string(where), "fuse") {
			found = append(found, fmt.Sprintf("%s %s%s", task, comm, where))
		}
	}
	return found
}
