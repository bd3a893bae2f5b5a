package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// S12: what the containers of a pod share, and nobody else. That inodes of
// namespaces and /dev/shm are shared as a container sees it is in
// [TestNamespacesOfTwoContainers], what a pod on the node's namespaces sees in
// [TestHostNamespaces]; here is what the host's /proc says, and memory itself.
func TestS12SharedNamespaces(t *testing.T) {
	p := shared.pod(t, namespaces(&runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}))
	own := sameNamespaces(&runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER})
	a, b := p.idle("a", own, withProbe(t)), p.idle("b", own, withProbe(t))
	other := shared.pod(t, named("other")).idle("other", withProbe(t))
	t.Run("inodes", func(t *testing.T) { s12Inodes(t, a, b, other) })
	t.Run("SysV shared memory", func(t *testing.T) { s12SysV(t, a, b, other) })
	t.Run("POSIX shared memory", func(t *testing.T) { s12POSIX(t, a, b, other) })
	t.Run("mounts", func(t *testing.T) { s12Mounts(t, a, b) })
	t.Run("host IPC", func(t *testing.T) { s12Host(t, a) })
}

func s12Inodes(t *testing.T, a, b, other *ctr) {
	report := shared.explain(t, a.ID)
	for kind, owner := range map[string]string{"net": "the pod's", "ipc": "the pod's", "uts": "the pod's", "mnt": "its own", "pid": "its own"} {
		mine, theirs := namespaceOf(t, a.hostPID(), kind), namespaceOf(t, b.hostPID(), kind)
		if common := owner == "the pod's"; (mine == theirs) != common {
			t.Errorf("%s of two containers of a pod: %s and %s", kind, mine, theirs)
		}
		for who, pid := range map[string]int{"another pod": other.hostPID(), "the host": os.Getpid()} {
			if namespaceOf(t, pid, kind) == mine {
				t.Errorf("%s %s is shared with %s", kind, mine, who)
			}
		}
		number := strings.Trim(strings.TrimPrefix(mine, kind+":"), "[]")
		if got, want := factOf(report, "namespaces", kind), owner+", inode "+number; got != want {
			t.Errorf("explain says of %s %q, want %q", kind, got, want)
		}
	}
}

// segments are the System V keys that a process sees.
func segments(t *testing.T, c *ctr) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for line := range strings.Lines(c.Sh("cat /proc/sysvipc/shm")) {
		out[strings.Fields(line)[0]] = true
	}
	return out
}

func s12SysV(t *testing.T, a, b, other *ctr) {
	const key = "4711"
	a.Sh(probePath + " shm-put " + key + " 'from a'")
	if got := b.Sh(probePath + " shm-get " + key); got != "from a\n" {
		t.Errorf("the other container reads %q", got)
	}
	if segments(t, other)[key] {
		t.Error("another pod sees the segment")
	}
	if r, err := other.execSync(5, probePath, "shm-get", key); err != nil || r.GetExitCode() == 0 {
		t.Errorf("another pod reads %q, %v", r.GetStdout(), err)
	}
	host, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil || strings.Contains(string(host), " "+key+" ") {
		t.Errorf("the host sees the segment:\n%s, %v", host, err)
	}
}

func s12POSIX(t *testing.T, a, b, other *ctr) {
	a.Sh("echo shared > /dev/shm/posix")
	identity := func(c *ctr, name string) (id [2]uint64, err error) {
		var st unix.Stat_t
		err = unix.Stat(filepath.Join("/proc", strconv.Itoa(c.hostPID()), "root/dev/shm", name), &st)
		return [2]uint64{st.Dev, st.Ino}, err
	}
	first, err := identity(a, "posix")
	second, err2 := identity(b, "posix")
	if err != nil || err2 != nil || first != second {
		t.Errorf("the file is %v and %v, %v, %v", first, second, err, err2)
	}
	if _, err := identity(other, "posix"); err == nil {
		t.Error("another pod sees the file")
	}
	if theirs, err := identity(other, "."); err != nil || theirs[0] == first[0] {
		t.Errorf("another pod has the same filesystem on /dev/shm: %v, %v", theirs, err)
	}
	if _, err := os.Stat("/dev/shm/posix"); err == nil {
		t.Error("the host sees the file")
	}
}

// s12Mounts: a mount in one container is not in the other.
func s12Mounts(t *testing.T, a, b *ctr) {
	admin := a.p.start("admin", "mkdir /mnt && mount -t tmpfs mine /mnt && echo mounted && exec sleep 1000", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{
			Capabilities:     &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}},
			Apparmor:         mayMount,
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}
	})
	admin.says(" F mounted\n")
	if mountOptions(t, admin.hostPID(), "/mnt") == "" {
		t.Error("the container does not see its own mount")
	}
	for who, pid := range map[string]int{"another container of the pod": b.hostPID(), "the host": os.Getpid()} {
		if got := mountOptions(t, pid, "/mnt"); got != "" {
			t.Errorf("%s sees the mount: %s", who, got)
		}
	}
}

// s12Host: the host's IPC is there when it is asked for, and only then.
func s12Host(t *testing.T, plain *ctr) {
	key := 1<<30 + os.Getpid() // nobody's but ours
	id, err := unix.SysvShmGet(key, os.Getpagesize(), unix.IPC_CREAT|unix.IPC_EXCL|0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); err != nil {
			t.Error(err)
		}
	}()
	o := &runtimeapi.NamespaceOption{Ipc: runtimeapi.NamespaceMode_NODE}
	host := shared.pod(t, named("ipc"), namespaces(o)).idle("host", sameNamespaces(o))
	if !segments(t, host)[strconv.Itoa(key)] {
		t.Error("with host IPC the host's segment is not there")
	}
	if segments(t, plain)[strconv.Itoa(key)] {
		t.Error("without host IPC the host's segment is there")
	}
	if got, want := namespaceOf(t, host.hostPID(), "ipc"), inode(t, "self", "ipc"); got != want {
		t.Errorf("ipc is %s, the host's is %s", got, want)
	}
	if got := factOf(shared.explain(t, host.ID), "namespaces", "ipc"); !strings.HasPrefix(got, "the host's, ") {
		t.Errorf("explain says of ipc %q", got)
	}
	var shm, hosts unix.Stat_t
	if err := unix.Stat(filepath.Join("/proc", strconv.Itoa(host.hostPID()), "root/dev/shm"), &shm); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat("/dev/shm", &hosts); err != nil || shm.Dev != hosts.Dev {
		t.Errorf("with host IPC /dev/shm is of device %d, the host's of %d, %v", shm.Dev, hosts.Dev, err)
	}
}
