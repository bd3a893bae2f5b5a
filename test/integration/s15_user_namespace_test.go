package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// The range of the host that S15's pod has for its own.
const (
	mappedFirst  = 1_000_000_000
	mappedLength = 65536
)

// S15: a pod with a user namespace and a volume of uid 1000, as the kubelet asks
// for them with hostUsers: false.
func TestS15UserNamespace(t *testing.T) {
	if most, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err != nil || strings.TrimSpace(string(most)) == "0" {
		t.Skipf("this machine has no user namespaces: max_user_namespaces is %q, %v", most, err)
	}
	ids := []*runtimeapi.IDMapping{{HostId: mappedFirst, ContainerId: 0, Length: mappedLength}}
	o := &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{
		Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids,
	}}
	p := shared.pod(t, namespaces(o))
	t.Run("identity", func(t *testing.T) { s15Identity(t, p, o) })
	t.Run("host files", func(t *testing.T) { s15HostFiles(t, p, o) })
	t.Run("volume", func(t *testing.T) { s15Volume(t, p, o, ids) })
	t.Run("volume that can't", func(t *testing.T) { s15Unmappable(t, p, o, ids) })
}

// s15Identity: root inside is nobody outside, for the container, for what is
// executed in it, and for the pod's pause.
func s15Identity(t *testing.T, p *pod, o *runtimeapi.NamespaceOption) {
	c := p.idle("root", sameNamespaces(o))
	pid := c.hostPID()
	outside := fmt.Sprint(mappedFirst)
	if got := strings.Fields(statusField(t, pid, "Uid")); got[0] != outside || got[1] != outside {
		t.Errorf("its user on the host is %v", got)
	}
	if got := c.Sh("id -u; awk '/^Uid/ {print $3}' /proc/self/status"); got != "0\n0\n" {
		t.Errorf("its user inside is %q", got)
	}
	for _, file := range []string{"uid_map", "gid_map"} {
		if got := strings.Join(strings.Fields(procFile(t, pid, file)), " "); got != fmt.Sprintf("0 %d %d", mappedFirst, mappedLength) {
			t.Errorf("%s is %q", file, got)
		}
	}
	if namespaceOf(t, pid, "user") == inode(t, "self", "user") {
		t.Error("its user namespace is the host's")
	}
	pause := first(t, namespaceOf(t, pid, "pid"))
	if namespaceOf(t, pause, "user") != namespaceOf(t, pid, "user") {
		t.Error("its user namespace is not the pod's")
	}
	report := shared.explain(t, c.ID)
	if got := factOf(report, "security", "uid map"); got != fmt.Sprintf("0 %d %d", mappedFirst, mappedLength) {
		t.Errorf("explain says of the uid map %q", got)
	}
	if got := factOf(report, "namespaces", "user"); !strings.HasPrefix(got, "the pod's, ") {
		t.Errorf("explain says of the namespace %q", got)
	}
}

// s15HostFiles: a file of the host's root is nobody's inside, and its mode is
// judged so, whatever capabilities there are.
func s15HostFiles(t *testing.T, p *pod, o *runtimeapi.NamespaceOption) {
	dir := volume(t)
	for name, mode := range map[string]os.FileMode{"secret": 0o640, "public": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name+"\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	c := p.idle("files", sameNamespaces(o), func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/host", HostPath: dir}}
	})
	if got := c.Sh("stat -c %u /host/secret; cat /host/public; cat /host/secret 2>&1; touch /host/made 2>&1; true"); got !=
		"65534\npublic\ncat: can't open '/host/secret': Permission denied\ntouch: /host/made: Permission denied\n" {
		t.Errorf("in the container: %q", got)
	}
}

// s15Volume: with its IDs mapped too the volume's owners are the same on both sides.
func s15Volume(t *testing.T, p *pod, o *runtimeapi.NamespaceOption, ids []*runtimeapi.IDMapping) {
	dir := volume(t)
	owned := filepath.Join(dir, "owned")
	if err := os.WriteFile(owned, []byte("data\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(owned, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	config := client.Shell("volume", sleeper, sameNamespaces(o), func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/volume", HostPath: dir, UidMappings: ids, GidMappings: ids}}
	})
	if err := os.Chown(dir, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	id, err := p.create(config)
	if status.Code(err) == codes.Unimplemented || err != nil && strings.Contains(err.Error(), "can't be idmapped") {
		t.Skipf("the filesystem of %s has no idmapped mounts: %v", dir, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := p.ctr(id)
	if err := c.TryStart(); err != nil {
		t.Fatal(err)
	}
	c.says(" F up\n")
	if got := c.Sh("stat -c %u:%g /volume/owned; cat /volume/owned; echo x > /volume/made; stat -c %u /volume/made"); got != "1000:1000\ndata\n1000\n" {
		t.Errorf("inside: %q", got)
	}
	for _, name := range []string{"owned", "made"} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, name), &st); err != nil || st.Uid != 1000 {
			t.Errorf("on disk %s is of %d, %v", name, st.Uid, err)
		}
	}
	if got := mountOptions(t, c.hostPID(), "/volume"); !strings.Contains(got, "idmapped") {
		t.Errorf("the mount is %q, not idmapped", got)
	}
	if got := strings.Fields(statusField(t, c.hostPID(), "Uid"))[0]; got != fmt.Sprint(mappedFirst+1000) {
		t.Errorf("its user on the host is %s", got)
	}
}

// s15Unmappable: a filesystem without idmapped mounts is refused by its volume's name.
func s15Unmappable(t *testing.T, p *pod, o *runtimeapi.NamespaceOption, ids []*runtimeapi.IDMapping) {
	const dir = "/proc/fs" // procfs has none, on any kernel so far
	records := filepath.Join(shared.Root, "pods", p.ID, "containers", "*")
	before, _ := filepath.Glob(records)
	id, err := p.create(client.Shell("unmappable", "true", sameNamespaces(o), func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/volume", HostPath: dir, UidMappings: ids, GidMappings: ids}}
	}))
	if err == nil {
		t.Fatalf("container %s was made", id)
	}
	if !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "idmapped") {
		t.Errorf("the error does not name the volume and the reason: %v", err)
	}
	if after, _ := filepath.Glob(records); len(after) != len(before) {
		t.Errorf("records of containers: %v, before %v", after, before)
	}
}
