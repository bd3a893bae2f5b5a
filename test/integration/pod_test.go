package integration

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/node"
)

func TestPodLifecycle(t *testing.T) {
	s := shared
	before := time.Now()
	p := s.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Labels["odd key/with.dots"] = "väl ue\n"
		c.Annotations = map[string]string{"a": strings.Repeat("x", 100_000)}
		c.Metadata.Attempt = 7
	})
	st := p.Status()
	if st.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("state %v", st.GetState())
	}
	if created := time.Unix(0, st.GetCreatedAt()); created.Before(before) || created.After(time.Now()) {
		t.Errorf("created at %v, asked at %v", created, before)
	}
	for name, pair := range map[string][2]any{
		"labels":      {p.Config.GetLabels(), st.GetLabels()},
		"annotations": {p.Config.GetAnnotations(), st.GetAnnotations()},
		"metadata":    {p.Config.GetMetadata().String(), st.GetMetadata().String()},
	} {
		if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	ip, err := netip.ParseAddr(st.GetNetwork().GetIp())
	if err != nil || !netip.MustParsePrefix(s.Subnet).Contains(ip) {
		t.Errorf("IP %q is not of %s", st.GetNetwork().GetIp(), s.Subnet)
	}
	for range 2 { // repeating is fine
		if _, err := s.Runtime.StopPodSandbox(within(t), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
			t.Fatal(err)
		}
	}
	if st := p.Status(); st.GetState() != runtimeapi.PodSandboxState_SANDBOX_NOTREADY || st.GetNetwork().GetIp() != "" {
		t.Errorf("stopped, and %v with the IP %q, which is free for others", st.GetState(), st.GetNetwork().GetIp())
	}
	released(t, s, p.ID)
	for range 2 {
		if _, err := s.Runtime.RemovePodSandbox(within(t), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = s.Runtime.PodSandboxStatus(within(t), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.ID})
	wantCode(t, "status of a removed pod", err, codes.NotFound)
	if found, _ := filepath.Glob(filepath.Join(s.Dir, "*", "pods", p.ID)); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
}

// released checks that a stopped pod has nothing of the kernel's any more.
func released(t *testing.T, s *suite, id string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, id) {
			t.Errorf("mounted after stop: %s", line)
		}
	}
	cgroups, _ := filepath.Glob("/sys/fs/cgroup/*/berth-" + id[:13])
	if len(cgroups) > 0 {
		t.Errorf("cgroups after stop: %v", cgroups)
	}
	leases, _ := filepath.Glob(filepath.Join(s.Dir, "leases", "*", "[0-9]*"))
	for _, l := range leases {
		if data, _ := os.ReadFile(l); strings.HasPrefix(string(data), id) {
			t.Errorf("address %s is still leased", filepath.Base(l))
		}
	}
}

func TestListFiltersPods(t *testing.T) {
	s := shared
	a := s.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Labels["which"] = "a" })
	b := s.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name, c.Labels["which"] = "b", "b" })
	if _, err := s.Runtime.StopPodSandbox(within(t), &runtimeapi.StopPodSandboxRequest{PodSandboxId: b.ID}); err != nil {
		t.Fatal(err)
	}
	mine := map[string]string{"test": t.Name()}
	ready := &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}
	cases := map[string]struct {
		filter *runtimeapi.PodSandboxFilter
		want   []string
	}{
		"newest first": {&runtimeapi.PodSandboxFilter{LabelSelector: mine}, []string{b.ID, a.ID}},
		"ID":           {&runtimeapi.PodSandboxFilter{Id: a.ID}, []string{a.ID}},
		"prefix":       {&runtimeapi.PodSandboxFilter{Id: a.ID[:13]}, []string{a.ID}},
		"state":        {&runtimeapi.PodSandboxFilter{LabelSelector: mine, State: ready}, []string{a.ID}},
		"label":        {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"test": t.Name(), "which": "b"}}, []string{b.ID}},
		"both":         {&runtimeapi.PodSandboxFilter{Id: b.ID, State: ready}, nil},
		"unknown":      {&runtimeapi.PodSandboxFilter{Id: strings.Repeat("f", 64)}, nil},
	}
	for name, c := range cases {
		r, err := s.Runtime.ListPodSandbox(within(t), &runtimeapi.ListPodSandboxRequest{Filter: c.filter})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, p := range r.GetItems() {
			got = append(got, p.GetId())
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// inode of a namespace of a process on the host.
func inode(t *testing.T, pid, kind string) string {
	t.Helper()
	link, err := os.Readlink("/proc/" + pid + "/ns/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestNamespacesOfTwoContainers(t *testing.T) {
	p := shared.pod(t)
	first, second := p.start("first", "sleep 1000"), p.start("second", "sleep 1000")
	other := shared.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "other" })
	third := other.start("third", "sleep 1000")
	for kind, same := range map[string]bool{"net": true, "ipc": true, "uts": true, "mnt": false, "pid": true} {
		read := "readlink /proc/self/ns/" + kind
		a, b, c := first.Sh(read), second.Sh(read), third.Sh(read)
		host := inode(t, "self", kind)
		if (a == b) != same {
			t.Errorf("%s of two containers of a pod: %s and %s", kind, a, b)
		}
		if a == c || strings.TrimSpace(a) == host {
			t.Errorf("%s is shared beyond the pod: %s, other pod %s, host %s", kind, a, c, host)
		}
	}
	first.Sh("echo shared > /dev/shm/file")
	if got := second.Sh("cat /dev/shm/file"); got != "shared\n" {
		t.Errorf("/dev/shm in the second container has %q", got)
	}
	if got := first.Sh("df -k /dev/shm | tail -1 | awk '{print $2}'"); got != "65536\n" {
		t.Errorf("/dev/shm has %s KiB", got)
	}
}

func namespaces(o *runtimeapi.NamespaceOption) func(*runtimeapi.PodSandboxConfig) {
	return func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: o}
	}
}

func sameNamespaces(o *runtimeapi.NamespaceOption) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: o}
	}
}

func TestHostNamespaces(t *testing.T) {
	o := &runtimeapi.NamespaceOption{
		Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE,
	}
	p := shared.pod(t, namespaces(o))
	if ip := p.Status().GetNetwork().GetIp(); ip != "" {
		t.Errorf("a pod on the host network tells IP %q", ip)
	}
	c := p.start("c", "sleep 1000", sameNamespaces(o))
	for _, kind := range []string{"net", "ipc", "pid"} {
		if got, want := strings.TrimSpace(c.Sh("readlink /proc/self/ns/"+kind)), inode(t, "self", kind); got != want {
			t.Errorf("%s is %s, the host's is %s", kind, got, want)
		}
	}
	host, _ := os.Hostname()
	if got := strings.TrimSpace(c.Sh("hostname")); got != host {
		t.Errorf("hostname %q, the node's is %q", got, host)
	}
}

func TestPidNamespaces(t *testing.T) {
	p := shared.pod(t, namespaces(&runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}))
	alone := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	a := p.start("a", "exec sleep 1001", sameNamespaces(alone))
	b := p.start("b", "exec sleep 1002", sameNamespaces(alone))
	if got := a.Sh("cat /proc/1/cmdline | tr '\\0' ' '"); got != "sleep 1001 " {
		t.Errorf("PID 1 is %q", got)
	}
	if got := a.Sh("readlink /proc/self/ns/pid"); got == b.Sh("readlink /proc/self/ns/pid") {
		t.Error("containers with a PID namespace each share one")
	}
	target := p.start("target", "exec sleep 1003", sameNamespaces(&runtimeapi.NamespaceOption{
		Pid: runtimeapi.NamespaceMode_TARGET, TargetId: a.ID,
	}))
	if got := target.Sh("cat /proc/1/cmdline | tr '\\0' ' '"); got != "sleep 1001 " {
		t.Errorf("PID 1 as the target's guest sees it is %q", got)
	}
	whole := shared.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "shared-pid" })
	c := whole.start("c", "exec sleep 1004")
	// PID 1 of a shared PID namespace is pause, and reaps what others leave.
	c.Sh("sh -c '(exec sleep 0.1) & exec true'; sh -c 'sleep 0.1 & exit 0'")
	c.Sh("sleep 0.3; ! grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null")
	if got := c.Sh("cat /proc/1/cmdline | tr '\\0' ' '"); strings.Contains(got, "sleep") {
		t.Errorf("PID 1 of a shared PID namespace is %q", got)
	}
}

func TestFilesOfThePod(t *testing.T) {
	p := shared.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Hostname = "web-0"
		c.DnsConfig = &runtimeapi.DNSConfig{
			Servers: []string{"10.96.0.10", "1.1.1.1"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:5"},
		}
		c.Linux.Sysctls = map[string]string{"net.core.somaxconn": "777", "kernel.shm_rmid_forced": "1"}
	})
	c := p.start("c", "sleep 1000")
	for script, want := range map[string]string{
		"hostname":             "web-0\n",
		"cat /etc/hostname":    "web-0\n",
		"echo $HOSTNAME":       "web-0\n",
		"cat /etc/resolv.conf": "search a.example b.example\nnameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:5\n",
		"grep -c '127.0.0.1.*localhost' /etc/hosts":                         "1\n",
		"cat /proc/sys/net/core/somaxconn":                                  "777\n",
		"cat /proc/sys/kernel/shm_rmid_forced":                              "1\n",
		"cat /sys/class/net/lo/operstate; ip -o addr show lo | grep -c 127": "unknown\n1\n",
	} {
		if got := c.Sh(script); script == "cat /etc/resolv.conf" {
			for line := range strings.Lines(want) {
				if !strings.Contains(got, line) {
					t.Errorf("resolv.conf lacks %q:\n%s", line, got)
				}
			}
		} else if got != want {
			t.Errorf("%q gives %q, want %q", script, got, want)
		}
	}
}

func TestPodsReachEachOther(t *testing.T) {
	a, b := shared.pod(t), shared.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "b" })
	server := func(c *runtimeapi.ContainerConfig) {
		c.Image.Image, c.Command = nginx, nil
	}
	a.start("web", "", server)
	client := b.start("client", "sleep 1000")
	url := "http://" + a.Status().GetNetwork().GetIp()
	fetch(t, url) // nginx is up
	if got := client.Sh("wget -q -O - " + url); !strings.Contains(got, "It works") {
		t.Errorf("from the other pod: %q", got)
	}
	if got := client.Sh("netstat -ltn | tail -n +3"); got != "" {
		t.Errorf("a pod that listens on nothing sees %q", got)
	}
}

// fetch gets a page from the test's own network, as often as it takes to be served.
func fetch(t *testing.T, url string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		r, err := http.Get(url)
		if err == nil {
			r.Body.Close()
			if r.StatusCode != http.StatusOK {
				t.Errorf("%s: %s", url, r.Status)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", url, err)
		}
		time.Sleep(20 * time.Millisecond) // nothing tells when a server in a pod listens
	}
}

func TestPortMapping(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free now
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	p := shared.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{
			{ContainerPort: 80, HostPort: int32(port)}, {ContainerPort: 81},
		}
	})
	p.start("web", "", func(c *runtimeapi.ContainerConfig) { c.Image.Image, c.Command = nginx, nil })
	fetch(t, "http://"+p.Status().GetNetwork().GetIp())
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	fetch(t, url)
	if _, err := shared.Runtime.StopPodSandbox(within(t), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		t.Fatal(err)
	}
	if r, err := http.Get(url); err == nil {
		r.Body.Close()
		t.Error("the port is still mapped after the pod was stopped")
	}
}

// The node says why pods can't run, runs those that need no network, and is
// ready as soon as there is a configuration.
func TestNetworkNotReady(t *testing.T) {
	s := own(t, node.Options{NoNetwork: true})
	condition := func() *runtimeapi.RuntimeCondition {
		r, err := s.Runtime.Status(within(t), &runtimeapi.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.GetStatus().GetConditions() {
			if c.GetType() == runtimeapi.NetworkReady {
				return c
			}
		}
		t.Fatal("no NetworkReady condition")
		return nil
	}
	if c := condition(); c.GetStatus() || !strings.Contains(c.GetMessage(), s.ConfDir) {
		t.Errorf("without a configuration: %v", c)
	}
	_, err := s.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: s.podConfig(t)})
	if err == nil || !strings.Contains(err.Error(), s.ConfDir) {
		t.Errorf("RunPodSandbox: %v", err)
	}
	s.pod(t, namespaces(&runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}))
	if err := s.WriteNetwork(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); !condition().GetStatus(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) { // the CRI has no event for conditions
			t.Fatalf("with a configuration: %v", condition())
		}
	}
	s.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "second" })
}

// A client that gave up retries; the pod it gets is the one there is.
func TestRetryGetsTheSamePod(t *testing.T) {
	s := shared
	c := s.podConfig(t)
	ids := make(chan string, 8)
	for range cap(ids) {
		go func() {
			r, err := s.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: c})
			if err != nil {
				t.Errorf("RunPodSandbox: %v", err)
			}
			ids <- r.GetPodSandboxId()
		}()
	}
	first := <-ids
	for range cap(ids) - 1 {
		if id := <-ids; id != first {
			t.Errorf("two pods: %s and %s", first, id)
		}
	}
	s.podOf(t, first, nil).End()
	if n := len(podsOf(t, s, t.Name())); n > 0 {
		t.Errorf("%d pods are left", n)
	}
}

func podsOf(t *testing.T, s *suite, test string) []*runtimeapi.PodSandbox {
	t.Helper()
	r, err := s.Runtime.ListPodSandbox(within(t), &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"test": test}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetItems()
}

// Removing a pod by force takes running containers with it.
func TestRemovePodTakesItsContainers(t *testing.T) {
	p := shared.pod(t)
	c := p.start("c", "trap '' TERM; sleep 1000 & wait")
	pid := c.hostPID()
	if _, err := shared.Runtime.RemovePodSandbox(within(t), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, 0); err == nil {
		t.Errorf("process %d of the container lives", pid)
	}
	_, err := shared.Runtime.ContainerStatus(within(t), &runtimeapi.ContainerStatusRequest{ContainerId: c.ID})
	wantCode(t, "status of a container of a removed pod", err, codes.NotFound)
}
