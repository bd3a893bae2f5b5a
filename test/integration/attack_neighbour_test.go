package integration

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// What a container tries on others of the node: their processes, keys, shared
// memory and names.
func TestAttackNeighbour(t *testing.T) {
	victim := shared.pod(t, named("victim")).idle("victim", withProbe(t))
	p := shared.pod(t, named("attacker"))
	tenant := p.idle("tenant", asTenant, withProbe(t))
	free := p.idle("free", withProbe(t), filtered(runtimeapi.SecurityProfile_Unconfined, ""))
	t.Run("kill_a_process_of_the_host", func(t *testing.T) {
		for who, pid := range map[string]int{"the daemon": shared.PID(), "the shim": shared.shim(t), "another pod's": victim.hostPID()} {
			r, err := tenant.in(t).execSync(5, "kill", "-0", strconv.Itoa(pid))
			if err != nil || r.GetExitCode() == 0 || !strings.Contains(string(r.GetStderr()), "No such process") {
				t.Errorf("%s: %v %v", who, r, err)
			}
		}
	})
	t.Run("trace_a_process_of_another_pod", func(t *testing.T) {
		for _, c := range []*ctr{tenant, free} {
			r, err := c.in(t).execSync(5, probePath, "trace", strconv.Itoa(victim.hostPID()))
			if err != nil || r.GetExitCode() == 0 || !strings.Contains(string(r.GetStderr()), "no such process") {
				t.Errorf("%v %v", r, err)
			}
		}
	})
	t.Run("see_processes_of_another_pod", func(t *testing.T) {
		if got := tenant.in(t).Sh("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c [b]erthd; true"); got != "0\n" {
			t.Errorf("%s processes are the daemon's", got)
		}
	})
	t.Run("kill_the_first_process_of_the_pod", func(t *testing.T) {
		pause := first(t, namespaceOf(t, tenant.hostPID(), "pid"))
		// Others than TERM and INT, which it heeds: by them a pod ends its own pause, as upstream.
		for _, signal := range []string{"KILL", "STOP", "HUP", "QUIT", "SEGV", "ABRT", "USR1"} {
			_, _ = tenant.in(t).execSync(5, "kill", "-"+signal, "1")
		}
		if state := statusField(t, pause, "State"); !strings.HasPrefix(state, "S") {
			t.Errorf("it is %s", state)
		}
		if got := p.in(t).Status().GetState(); got != runtimeapi.PodSandboxState_SANDBOX_READY {
			t.Errorf("the pod is %v", got)
		}
		if got := tenant.in(t).Sh("echo alive"); got != "alive\n" {
			t.Error(got)
		}
	})
	t.Run("keys_of_another_container", func(t *testing.T) {
		const search = " try request_key"
		if got := free.in(t).Sh(probePath + " try add_key request_key"); got != "add_key allowed\nrequest_key allowed\n" {
			t.Skipf("this kernel keeps no keys: %q", got)
		}
		other := victim.p.in(t).idle("other", withProbe(t), filtered(runtimeapi.SecurityProfile_Unconfined, ""))
		for _, c := range []*ctr{other, p.in(t).idle("beside", withProbe(t), filtered(runtimeapi.SecurityProfile_Unconfined, ""))} {
			if got := c.in(t).Sh(probePath + search); strings.Contains(got, "allowed") {
				t.Errorf("it finds the key: %q", got)
			}
		}
	})
	t.Run("shared_memory_of_another_pod", func(t *testing.T) {
		victim.in(t).Sh(probePath + " shm-put 4711 mine && echo mine > /dev/shm/file")
		if r, err := tenant.in(t).execSync(5, "sh", "-c", probePath+" shm-get 4711 || cat /dev/shm/file"); err != nil || r.GetExitCode() == 0 || len(r.GetStdout()) > 0 {
			t.Errorf("%v %v", r, err)
		}
	})
	t.Run("rename_the_host", func(t *testing.T) {
		unchanged(t, "/proc/sys/kernel/hostname")
		_, _ = tenant.in(t).execSync(5, "hostname", "owned")
		_, _ = free.in(t).execSync(5, "sh", "-c", "hostname owned; echo owned > /proc/sys/kernel/hostname")
	})
	t.Run("negative_oom_score", func(t *testing.T) {
		r, err := tenant.in(t).execSync(5, "sh", "-c", "echo -1000 > /proc/self/oom_score_adj")
		if err != nil || r.GetExitCode() == 0 {
			t.Errorf("it made itself unkillable for memory: %v %v", r, err)
		}
	})
	t.Run("higher_limits_than_it_was_given", func(t *testing.T) {
		r, err := tenant.in(t).execSync(5, "sh", "-c", "ulimit -Hn $(( $(ulimit -Hn) + 1 ))")
		if err != nil || r.GetExitCode() == 0 {
			t.Errorf("%v %v", r, err)
		}
	})
	t.Run("real_time_priority", func(t *testing.T) {
		r, err := tenant.in(t).execSync(5, "sh", "-c", "nice -n -20 grep -q . /proc/self/stat && renice -n -20 -p $$")
		if err != nil || r.GetExitCode() == 0 {
			t.Errorf("%v %v", r, err)
		}
	})
}

// What a pod of its own network tries on the host's.
func TestAttackNetwork(t *testing.T) {
	p := shared.pod(t, privilegedPod, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{"net.ipv4.conf.all.route_localnet": "1"}
	})
	tenant := p.idle("tenant", asTenant, withProbe(t))
	admin := p.idle("admin", withProbe(t), capabilities(0, &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN", "NET_RAW"}}))
	mighty := p.idle("mighty", privileged, withProbe(t))
	node := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}
	onHostNet := shared.pod(t, named("host"), namespaces(node)).idle("onhost", sameNamespaces(node), withProbe(t))
	name := fmt.Sprintf("berth-test-%d", os.Getpid())
	abstract, err := net.Listen("unix", "@"+name)
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	t.Run("abstract_socket_of_the_host", func(t *testing.T) {
		for _, c := range []*ctr{tenant, mighty} {
			if r, err := c.in(t).execSync(5, probePath, "connect", name); err != nil || r.GetExitCode() == 0 || !strings.Contains(string(r.GetStderr()), "refused") {
				t.Errorf("%v %v", r, err)
			}
		}
		if got := onHostNet.in(t).Sh(probePath + " connect " + name); got != "connected\n" {
			t.Errorf("even in the host's network %q", got)
		}
	})
	t.Run("change_the_host's_bridge", func(t *testing.T) {
		for _, c := range []*ctr{tenant, admin} {
			if r, err := c.in(t).execSync(5, "ip", "link", "set", shared.Bridge, "down"); err != nil || r.GetExitCode() == 0 {
				t.Errorf("%v %v", r, err)
			}
		}
		if r, err := onHostNet.in(t).execSync(5, "sh", "-c", "ip link show "+shared.Bridge+" && ip link set "+shared.Bridge+" down"); err != nil || r.GetExitCode() == 0 ||
			!strings.Contains(string(r.GetStdout()), shared.Bridge) || !strings.Contains(string(r.GetStderr()), "not permitted") {
			t.Errorf("in the host's network: %v %v", r, err)
		}
	})
	t.Run("change_its_own_network", func(t *testing.T) {
		try(t, tenant.in(t), admin.in(t), []script{
			{"take_a_link_down", "ip link set lo down", denied, same + " && ip link set lo up"},
			{"take_another_address", "ip addr add 192.0.2.7/32 dev lo", denied, same},
			{"add_a_route", "ip route add 192.0.2.0/24 dev lo", denied, same},
			{"nf_tables", probePath + " firewall", denied, ""},
		})
	})
	t.Run("CVE-2020-8558_loopback_of_the_host_by_the_bridge", func(t *testing.T) { hostLoopback(t, admin.in(t)) })
	t.Run("CVE-2020-10749_router_advertisement", func(t *testing.T) {
		for _, link := range []string{shared.Bridge} {
			file := filepath.Join("/proc/sys/net/ipv6/conf", link, "accept_ra")
			data, err := os.ReadFile(file)
			if err != nil {
				t.Skipf("this machine has no IPv6: %v", err)
			}
			off, _ := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", link, "disable_ipv6"))
			forwards, _ := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", link, "forwarding"))
			if accept := strings.TrimSpace(string(data)); accept == "2" || accept == "1" && string(off) == "0\n" && string(forwards) == "0\n" {
				t.Errorf("the host's %s takes routes from pods: accept_ra is %s", link, accept)
			}
		}
	})
	t.Run("low_port_of_the_host's_network", func(t *testing.T) {
		user := onHostNet.p.in(t).idle("user", sameNamespaces(node), func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
		})
		first := strings.TrimSpace(content(t, "/proc/sys/net/ipv4/ip_unprivileged_port_start"))
		if first == "0" {
			t.Skip("this machine lets everyone bind every port")
		}
		r, err := user.execSync(2, "nc", "-l", "-p", "87", "-w", "1")
		if err == nil && (r.GetExitCode() == 0 || !strings.Contains(string(r.GetStderr()), "ermission denied")) {
			t.Errorf("%v", r)
		}
	})
}

// hostLoopback sends to what listens on the host's 127.0.0.1 alone, by the bridge.
func hostLoopback(t *testing.T, admin *ctr) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	reached := make(chan string, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(reached)
				return
			}
			reached <- c.RemoteAddr().String()
			c.Close()
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	gateway := strings.TrimSuffix(shared.Subnet, "0/24") + "1"
	admin.Sh("ip link set lo up; ip addr flush dev lo; ip route del local 127.0.0.0/8 table local 2>/dev/null; " +
		"ip route flush table local type local dev lo 2>/dev/null; ip route add 127.0.0.1/32 via " + gateway + " dev eth0")
	if route := admin.Sh("ip route get 127.0.0.1; true"); !strings.Contains(route, "eth0") {
		t.Errorf("the attack has no route: %s", route)
	}
	r, err := admin.execSync(8, "nc", "-w", "2", "127.0.0.1", strconv.Itoa(port))
	if err == nil && r.GetExitCode() == 0 {
		t.Errorf("it reached the host's loopback: %v", r)
	}
	l.Close()
	for from := range reached {
		t.Errorf("the host's loopback was reached from %s", from)
	}
}

// What a container prints is data: nothing of it may become another line of its
// log, another container's, or a burden of the daemon.
func TestAttackLog(t *testing.T) {
	p := shared.pod(t)
	const forged = "2020-01-01T00:00:00.000000000Z stderr F forged"
	for name, c := range map[string]struct{ script, want string }{
		"forged_line":               {"echo '" + forged + "'", forged + "\n"},
		"forged_line_after_a_CR":    {"printf 'a\\r" + forged + "\\n'", "a\r" + forged + "\n"},
		"forged_partial_line":       {"printf '2020-01-01T00:00:00Z stdout P x'; printf ' y\\n'", "2020-01-01T00:00:00Z stdout P x y\n"},
		"zero_bytes":                {"printf 'a\\0b\\0\\n'", "a\x00b\x00\n"},
		"text_that_is_no_UTF-8":     {"printf '\\377\\376\\300\\200\\n'", "\xff\xfe\xc0\x80\n"},
		"half_a_character":          {"printf '\\342\\202'; printf '\\254\\n'", "€\n"},
		"terminal_control":          {"printf '\\033[2J\\033]0;x\\007\\n'", "\x1b[2J\x1b]0;x\x07\n"},
		"separators_of_other_kinds": {"printf 'a\\v\\fb\\302\\205c\\342\\200\\250d\\n'", "a\v\fb\u0085c\u2028d\n"},
		"line_of_20_MB":             {"head -c 20000000 /dev/zero | tr '\\0' x; echo", strings.Repeat("x", 20_000_000) + "\n"},
		"100,000_empty_lines":       {"yes '' | head -n 100000", strings.Repeat("\n", 100_000)},
	} {
		t.Run(name, func(t *testing.T) {
			run := p.in(t).start(name, c.script)
			run.Ended()
			lines := readLog(t, run.LogFile()) // which fails the test at a line that is none
			if got := strings.TrimSuffix(output(lines, "stdout"), "\n") + "\n"; got != c.want {
				t.Errorf("%d bytes, want %d: %.200q", len(got), len(c.want), got)
			}
			if got := output(lines, "stderr"); got != "" {
				t.Errorf("a line became of stderr: %q", got)
			}
			for _, l := range lines {
				if l.At.Before(time.Now().Add(-time.Hour)) {
					t.Errorf("a line is of %v", l.At)
				}
			}
		})
	}
	t.Run("log_directory_with_a_link_out", func(t *testing.T) {
		dir := secret(t)
		p := shared.pod(t)
		if err := os.Symlink(dir, filepath.Join(p.Config.GetLogDirectory(), "link")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(dir+"/secret", filepath.Join(p.Config.GetLogDirectory(), "file.log")); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"link/made.log", "link/secret", "file.log"} {
			c, err := p.tryStart(strings.ReplaceAll(path, "/", "-"), "echo written", func(c *runtimeapi.ContainerConfig) { c.LogPath = path })
			if err == nil {
				c.Ended()
				t.Errorf("a log at %s is written", path)
			}
		}
	})
	t.Run("log_that_is_a_FIFO", func(t *testing.T) {
		p := shared.pod(t)
		if err := unix.Mkfifo(filepath.Join(p.Config.GetLogDirectory(), "c.log"), 0o644); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if c, err := p.tryStart("c", "echo x"); err == nil {
			c.Ended()
		}
		if took := time.Since(began); took > client.Bound(10*time.Second) {
			t.Errorf("it took %v", took)
		}
	})
	t.Run("flood_of_two_streams", func(t *testing.T) {
		c := p.in(t).start("flood", "head -c 30000000 /dev/zero & head -c 30000000 /dev/zero >&2; wait")
		c.Sh("true") // while it floods
		c.Ended()
		data, err := os.ReadFile(c.LogFile())
		if err != nil {
			t.Fatal(err)
		}
		if zeros := bytes.Count(data, []byte{0}); zeros != 60_000_000 {
			t.Errorf("of 60000000 bytes %d are in the log", zeros)
		}
	})
}
