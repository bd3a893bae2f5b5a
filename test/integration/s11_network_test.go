package integration

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// webAt80 serves the container's /etc, as a user that is not root and has no
// capability.
const webAt80 = "exec httpd -f -p 80 -h /etc"

var nobodyAtAll = guarded(func(sc *runtimeapi.LinuxContainerSecurityContext) {
	sc.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
	sc.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}
})

// S11: pods A and B on the bridge, C on the host network: whose ports they reach,
// whose sockets they see, and port 80 for a user that is not root.
// TestPodsReachEachOther has a server that is root, TestHostNamespaces and
// TestNamespacesOfTwoContainers the namespaces as seen from inside.
func TestS11Network(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // a socket of the host
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	hostPort := l.Addr().(*net.TCPAddr).Port
	named := func(name string) func(*runtimeapi.PodSandboxConfig) {
		return func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = name }
	}
	onHost := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}
	podA, podB, podC := shared.pod(t, named("a")), shared.pod(t, named("b")), shared.pod(t, named("c"), namespaces(onHost))
	a, b := podA.start("a", webAt80, nobodyAtAll), podB.idle("b")
	c := podC.idle("c", sameNamespaces(onHost))
	fetch(t, "http://"+podA.Status().GetNetwork().GetIp()+"/hostname") // it listens

	t.Run("reach", func(t *testing.T) {
		if got, want := b.Sh("wget -q -O - http://"+podA.Status().GetNetwork().GetIp()+"/hostname"), a.Sh("cat /etc/hostname"); got != want || got == "" {
			t.Errorf("from the other pod: %q, want %q", got, want)
		}
	})
	t.Run("sockets", func(t *testing.T) {
		for run, want := range map[*ctr][]int{a: {80}, b: nil} {
			if got := listeners(t, run.hostPID()); !slices.Equal(got, want) {
				t.Errorf("ports that pod %s listens on: %v, want %v", run.p.Config.GetMetadata().GetName(), got, want)
			}
		}
		if got := listeners(t, c.hostPID()); !slices.Contains(got, hostPort) {
			t.Errorf("on the host network %v is seen, the host listens on %d", got, hostPort)
		}
		if got := c.Sh("netstat -ltn"); !strings.Contains(got, fmt.Sprintf("127.0.0.1:%d ", hostPort)) {
			t.Errorf("inside, on the host network: %s", got)
		}
	})
	t.Run("namespaces", func(t *testing.T) { networksOf(t, a, b, c) })
	t.Run("port 80 on the host", func(t *testing.T) { portOnHost(t, podC.in(t), onHost) })
	t.Run("explain", func(t *testing.T) {
		if got := a.fact("network", "listening"); !strings.Contains(got, ":80") {
			t.Errorf("A listens on %q", got)
		}
		if got := c.fact("network", "listening"); !strings.Contains(got, "more") && !strings.Contains(got, strconv.Itoa(hostPort)) {
			t.Errorf("C listens on %q", got)
		}
		if got := c.fact("network", "host network"); !strings.Contains(got, "shares the machine's") {
			t.Errorf("C's network is %q", got)
		}
		if weak := podC.audit()["c"].Weak; !slices.Contains(weak, "host net") {
			t.Errorf("C is weakened by %q", weak)
		}
		if weak := podB.audit()["b"].Weak; slices.Contains(weak, "host net") {
			t.Errorf("B is weakened by %q", weak)
		}
	})
}

// listeners are the ports of the sockets in state 0A, TCP_LISTEN, in the network of
// a process.
func listeners(t *testing.T, pid int) []int {
	t.Helper()
	var out []int
	for _, table := range []string{"tcp", "tcp6"} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if f[3] != "0A" {
				continue
			}
			_, port, _ := strings.Cut(f[1], ":")
			n, err := strconv.ParseUint(port, 16, 16)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, int(n))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// networksOf compares inodes of namespaces, those of the pods' pauses too.
func networksOf(t *testing.T, a, b, c *ctr) {
	t.Helper()
	of := func(c *ctr) string { return inode(t, strconv.Itoa(c.hostPID()), "net") }
	host := inode(t, "self", "net")
	if of(a) == of(b) || of(a) == host || of(b) == host {
		t.Errorf("networks of A %s, B %s, the host %s", of(a), of(b), host)
	}
	if of(c) != host {
		t.Errorf("network of C %s, the host's %s", of(c), host)
	}
	for run, want := range map[*ctr]string{a: "the pod's", b: "the pod's", c: "the host's"} {
		number := strings.TrimSuffix(strings.TrimPrefix(of(run), "net:["), "]")
		if got := run.fact("namespaces", "net"); got != want+", inode "+number {
			t.Errorf("explain has %q, want %s and %s", got, want, number)
		}
	}
}

// portOnHost wants the kernel to refuse port 80 where its limit for users counts.
func portOnHost(t *testing.T, p *pod, onHost *runtimeapi.NamespaceOption) {
	t.Helper()
	if data, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err != nil || number(t, strings.TrimSpace(string(data))) <= 80 {
		t.Skipf("here every user may have port 80: ip_unprivileged_port_start is %s, %v", data, err)
	}
	run := p.start("web", webAt80, nobodyAtAll, func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions = onHost
	})
	if st := run.Ended(); st.GetExitCode() == 0 {
		t.Errorf("it ended with %d", st.GetExitCode())
	}
	if got := output(readLog(t, run.LogFile()), "stderr"); !strings.Contains(got, "Permission denied") {
		t.Errorf("it says %q", got)
	}
	run.likely("security", "port", "Permission denied")
}
