package integration

import (
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
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

// Fields of a pod, which an API server hands through from a tenant, made so that
// they mean more than they may once they are a path, a line or an argument.
func TestAttackPodFields(t *testing.T) {
	unchanged(t, "/proc/sys/kernel/core_pattern")
	sysctl := func(name, value string) func(*runtimeapi.PodSandboxConfig) {
		return func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{name: value} }
	}
	const pattern = "|/tmp/x"
	cases := map[string]func(*runtimeapi.PodSandboxConfig){
		"CVE-2022-0811_second_sysctl_in_a_value":   sysctl("kernel.shm_rmid_forced", "1+kernel.core_pattern="+pattern),
		"CVE-2022-0811_sysctl_in_a_value_of_lines": sysctl("net.ipv4.ip_forward", "1\nkernel.core_pattern="+pattern),
		"sysctl_of_the_host":                       sysctl("kernel.core_pattern", pattern),
		"sysctl_with_..":                           sysctl("net.ipv4.../.../kernel/core_pattern", pattern),
		"sysctl_with_../":                          sysctl("net/../kernel/core_pattern", pattern),
		"sysctl_with_a_namespaced_beginning":       sysctl("kernel.shm../../kernel/core_pattern", pattern),
		"sysctl_with_a_zero_byte":                  sysctl("net.ipv4.ip_forward\x00", "1"),
		"name_with_..":                             func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "../../../etc" },
		"name_with_a_zero_byte":                    func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "a\x00b" },
		"namespace_with_..":                        func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Namespace = "../.." },
		"uid_with_..":                              func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Uid = "../../x" },
		"annotations_of_1_MB": func(c *runtimeapi.PodSandboxConfig) {
			c.Annotations = map[string]string{"a": strings.Repeat("x", 1<<20)}
		},
		"labels_of_1_MB":                 func(c *runtimeapi.PodSandboxConfig) { c.Labels = map[string]string{strings.Repeat("x", 1<<20): "a"} },
		"hostname_with_a_line_break":     func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "a\n127.0.0.1 bank" },
		"hostname_with_a_zero_byte":      func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "a\x00b" },
		"hostname_with_a_slash":          func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "../../etc/shadow" },
		"cgroup_parent_with_..":          func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "/../../../tmp/x" },
		"relative_cgroup_parent_with_..": func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "../../x" },
		"slice_with_..":                  func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "../x.slice" },
		"relative_log_directory":         func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory = "../../var/log" },
		"host_port_past_16_bits": func(c *runtimeapi.PodSandboxConfig) {
			c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 65536 + 22, ContainerPort: 22}}
		},
		"host_IP_with_a_rule": func(c *runtimeapi.PodSandboxConfig) {
			c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 70, ContainerPort: 22, HostIp: "127.0.0.1 -j ACCEPT"}}
		},
		"runtime_class_with_..": nil,
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			c, handler := shared.podConfig(t), ""
			if change == nil {
				handler = "../../bin/sh"
			} else {
				change(c)
			}
			r, err := shared.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: c, RuntimeHandler: handler})
			refused(t, name, err)
			if err == nil {
				shared.podOf(t, r.GetPodSandboxId(), nil).End()
			}
		})
	}
}

// Lines put into the files that berth writes for a pod, by fields of which each
// is meant to be a word.
func TestAttackPodFiles(t *testing.T) {
	for name, dns := range map[string]*runtimeapi.DNSConfig{
		"search_by_a_DNS_server": {Servers: []string{"192.0.2.2\nsearch evil.example"}},
		"server_by_a_DNS_search": {Searches: []string{"b.example\nnameserver 192.0.2.66"}},
		"server_by_a_DNS_option": {Options: []string{"ndots:6\nnameserver 192.0.2.67"}},
		"search_by_a_DNS_option": {Options: []string{"x\r\nsearch other.example"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := shared.podConfig(t)
			c.DnsConfig = dns
			_, err := shared.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: c})
			refused(t, name, err)
		})
	}
}

// Fields of a container, likewise.
func TestAttackContainerFields(t *testing.T) {
	p := shared.pod(t)
	dir := secret(t)
	context := func(f func(*runtimeapi.LinuxContainerSecurityContext)) func(*runtimeapi.ContainerConfig) {
		return guarded(f)
	}
	user := func(id int64) func(*runtimeapi.ContainerConfig) {
		return context(func(sc *runtimeapi.LinuxContainerSecurityContext) { sc.RunAsUser = &runtimeapi.Int64Value{Value: id} })
	}
	seccomp := func(ref string) func(*runtimeapi.ContainerConfig) {
		return filtered(runtimeapi.SecurityProfile_Localhost, ref)
	}
	armor := func(ref string) func(*runtimeapi.ContainerConfig) {
		return context(func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: ref}
		})
	}
	device := func(path string) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: path, ContainerPath: "/dev/x", Permissions: "rwm"}}
		}
	}
	cases := map[string]func(*runtimeapi.ContainerConfig){
		"name_with_a_slash":            func(c *runtimeapi.ContainerConfig) { c.Metadata.Name = "../../x" },
		"name_with_a_zero_byte":        func(c *runtimeapi.ContainerConfig) { c.Metadata.Name = "a\x00" },
		"log_path_with_..":             func(c *runtimeapi.ContainerConfig) { c.LogPath = "../../../etc/cron.d/x" },
		"log_path_that_is_absolute":    func(c *runtimeapi.ContainerConfig) { c.LogPath = dir + "/x" },
		"log_path_through_..":          func(c *runtimeapi.ContainerConfig) { c.LogPath = "a/../../../x" },
		"log_path_that_is_a_directory": func(c *runtimeapi.ContainerConfig) { c.LogPath = "." },
		"log_path_with_a_zero_byte":    func(c *runtimeapi.ContainerConfig) { c.LogPath = "a\x00.log" },
		"annotations_of_1_MB": func(c *runtimeapi.ContainerConfig) {
			c.Annotations = map[string]string{"a": strings.Repeat("x", 1<<20)}
		},
		"environment_with_a_zero_byte": func(c *runtimeapi.ContainerConfig) {
			c.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("b\x00LD_PRELOAD=/x")}}
		},
		"environment_name_with_an_equals": func(c *runtimeapi.ContainerConfig) {
			c.Envs = []*runtimeapi.KeyValue{{Key: "A=B\nC", Value: []byte("x")}}
		},
		"command_with_a_zero_byte":           func(c *runtimeapi.ContainerConfig) { c.Command = []string{"sh\x00", "-c", "true"} },
		"working_directory_relative":         func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "../.." },
		"file_of_the_host_as_a_device":       device("/etc/shadow"),
		"device_with_..":                     device("/dev/../etc/shadow"),
		"device_by_a_link_to_a_file":         device(linkTo(t, "/etc/shadow")),
		"mount_target_with_..":               bind(dir, "x/../../../etc"),
		"mount_target_with_a_zero_byte":      bind(dir, "/x\x00/y"),
		"mount_source_relative":              bind("../../etc", "/x"),
		"mount_source_with_a_zero_byte":      bind("/etc\x00", "/x"),
		"CVE-2023-2431_seccomp_without_file": seccomp(""),
		"seccomp_profile_with_..":            seccomp("localhost/../../../../etc/shadow"),
		"seccomp_profile_that_never_ends":    seccomp("/dev/zero"),
		"seccomp_profile_that_blocks":        seccomp(fifo(t)),
		"AppArmor_profile_with_a_line_break": armor("a\nchange"),
		"AppArmor_profile_with_..":           armor("../../unconfined"),
		"AppArmor_profile_by_exec_words":     armor("unconfined//&x exec"),
		"CVE-2024-40635_user_past_32_bits":   user(1 << 32),
		"user_-1":                            user(-1),
		"user_that_is_-1_in_32_bits":         user(math.MaxUint32),
		"user_past_31_bits":                  user(math.MaxInt64),
		"group_-1": context(func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.RunAsUser, sc.RunAsGroup = &runtimeapi.Int64Value{}, &runtimeapi.Int64Value{Value: -1}
		}),
		"supplementary_group_past_32_bits": context(func(sc *runtimeapi.LinuxContainerSecurityContext) { sc.SupplementalGroups = []int64{1 << 32} }),
		"username_with_a_colon":            context(func(sc *runtimeapi.LinuxContainerSecurityContext) { sc.RunAsUsername = "x:0:0\nroot" }),
		"oom_score_below_all":              resources(&runtimeapi.LinuxContainerResources{OomScoreAdj: -100000}),
		"oom_score_above_all":              resources(&runtimeapi.LinuxContainerResources{OomScoreAdj: 1001}),
		"memory_limit_that_is_negative":    resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: -5}),
		"CPU_set_with_a_path":              resources(&runtimeapi.LinuxContainerResources{CpusetCpus: "../../x"}),
		"cgroup_file_with_..":              resources(&runtimeapi.LinuxContainerResources{Unified: map[string]string{"../../cgroup.procs": "1"}}),
		"huge_page_size_with_a_path":       resources(&runtimeapi.LinuxContainerResources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "../../x", Limit: 1}}}),
		"capability_with_a_path": context(func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"../SYS_ADMIN"}}
		}),
		"privileged_in_a_pod_that_is_not": context(func(sc *runtimeapi.LinuxContainerSecurityContext) { sc.Privileged = true }),
		"network_of_the_host_beside_its_pod": context(func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.NamespaceOptions = &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}
		}),
		"processes_of_the_host_beside_its_pod": context(func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_NODE}
		}),
		"device_of_CDI_with_a_path": func(c *runtimeapi.ContainerConfig) { c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "../../../etc=x"}} },
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			id, err := p.in(t).create(client.Shell("c", "true", change))
			if err == nil {
				err = p.in(t).ctr(id).TryStart()
				_, _ = shared.Runtime.RemoveContainer(within(t), &runtimeapi.RemoveContainerRequest{ContainerId: id})
				t.Errorf("it was made; its start: %v", err)
				return
			}
			if status.Code(err) == codes.FailedPrecondition {
				t.Skip(err) // refused because this host lacks it
			}
			refused(t, name, err)
		})
	}
	r, err := shared.Runtime.ListContainers(within(t), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: p.ID}})
	if err != nil || len(r.GetContainers()) != 0 {
		t.Errorf("containers after refusals: %v, %v", r.GetContainers(), err)
	}
}

// linkTo is a symbolic link to a file.
func linkTo(t *testing.T, file string) string {
	t.Helper()
	link := filepath.Join(volume(t), "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	return link
}

// fifo is one that nobody writes to.
func fifo(t *testing.T) string {
	t.Helper()
	file := filepath.Join(volume(t), "fifo")
	if err := unix.Mkfifo(file, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// IDs of calls made so that they name what the caller was not given.
func TestAttackIDs(t *testing.T) {
	p := shared.pod(t)
	c := p.idle("c")
	ids := map[string]string{
		"empty": "", "parent_directory": "..", "way_out": "../../" + c.ID, "way_out_and_back": c.ID + "/../" + c.ID, "slash": "/", "zero_byte": c.ID + "\x00",
		"pattern": "*", "pattern_of_one": c.ID[:10] + "*", "line_break": c.ID + "\n", "in_capitals": strings.ToUpper(c.ID) + "X", "1_MB": strings.Repeat("a", 1<<20),
		"pod_as_container": p.ID, "longer": c.ID + "0", "spaces": " " + c.ID,
	}
	for name, id := range ids {
		t.Run(name, func(t *testing.T) {
			rt, ctx := shared.Runtime, within(t)
			for call, err := range map[string]error{
				"ContainerStatus": second(rt.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})),
				"ExecSync":        second(rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})),
				"Attach":          second(rt.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdout: true})),
				"Reopen":          second(rt.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})),
			} {
				if code := status.Code(err); code != codes.NotFound && code != codes.InvalidArgument {
					t.Errorf("%s: %v", call, err)
				}
			}
			_, _ = rt.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
			_, _ = rt.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: strings.Replace(id, p.ID, c.ID, 1)})
			if got := c.in(t).Sh("echo alive"); got != "alive\n" {
				t.Error(got)
			}
		})
	}
	t.Run("prefix_of_two", func(t *testing.T) {
		for _, first := range "0123456789abcdef" { // of 17 IDs two begin alike
			p.in(t).idle("c-" + string(first))
		}
		for _, first := range "0123456789abcdef" {
			r, err := shared.Runtime.ListContainers(within(t), &runtimeapi.ListContainersRequest{})
			if err != nil {
				t.Fatal(err)
			}
			alike := 0
			for _, other := range r.GetContainers() {
				if strings.HasPrefix(other.GetId(), string(first)) {
					alike++
				}
			}
			if _, err := shared.Runtime.ContainerStatus(within(t), &runtimeapi.ContainerStatusRequest{ContainerId: string(first)}); alike > 1 && err == nil {
				t.Errorf("%c stands for one of %d containers", first, alike)
			}
		}
	})
}

// The streaming port: whoever reaches it, but has no token or an old one.
func TestAttackStreaming(t *testing.T) {
	p := shared.pod(t)
	c := p.idle("c")
	ask := func(t *testing.T, address string) int {
		req, err := http.NewRequestWithContext(within(t), http.MethodPost, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "SPDY/3.1")
		req.Header.Set("X-Stream-Protocol-Version", "v4.channel.k8s.io")
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	fresh := func(t *testing.T) *url.URL {
		r, err := shared.Runtime.Exec(within(t), &runtimeapi.ExecRequest{ContainerId: c.ID, Cmd: []string{"true"}, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(r.GetUrl())
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	t.Run("use_a_token_twice", func(t *testing.T) {
		u := fresh(t)
		if got := ask(t, u.String()); got != http.StatusSwitchingProtocols {
			t.Errorf("the first use: %d", got)
		}
		if got := ask(t, u.String()); got < 400 {
			t.Errorf("the second use: %d", got)
		}
	})
	t.Run("guess_a_token", func(t *testing.T) {
		u := fresh(t)
		token := u.Path[strings.LastIndexByte(u.Path, '/')+1:]
		if len(token) < 8 {
			t.Errorf("a token is %q", token)
		}
		for _, guess := range []string{"", "a", token[:len(token)-1], token + "a", strings.Repeat("A", len(token)), c.ID, "../" + token, "*"} {
			if got := ask(t, strings.TrimSuffix(u.String(), token)+guess); got < 300 {
				t.Errorf("%q for %q: %d", guess, token, got)
			}
		}
		seen := map[string]bool{}
		for range 200 {
			seen[fresh(t).Path] = true
		}
		if len(seen) != 200 {
			t.Errorf("of 200 tokens %d differ", len(seen))
		}
	})
	t.Run("use_an_exec's_token_to_attach", func(t *testing.T) {
		u := fresh(t)
		for _, kind := range []string{"attach", "portforward"} {
			if got := ask(t, strings.Replace(u.String(), "/exec/", "/"+kind+"/", 1)); got < 300 {
				t.Errorf("%s: %d", kind, got)
			}
		}
	})
	t.Run("listen_beyond_loopback", func(t *testing.T) {
		host, _, err := net.SplitHostPort(fresh(t).Host)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			t.Errorf("it is served at %s, %v", host, err)
		}
	})
	t.Run("forward_to_a_port_past_16_bits", func(t *testing.T) {
		for _, port := range []int32{-1, 0, 65536, 65536 + 22, math.MaxInt32} {
			_, err := shared.Runtime.PortForward(within(t), &runtimeapi.PortForwardRequest{PodSandboxId: p.ID, Port: []int32{port}})
			wantCode(t, fmt.Sprint("port ", port), err, codes.InvalidArgument)
		}
	})
	t.Run("exec_with_a_terminal_and_stderr_at_once", func(t *testing.T) {
		_, err := shared.Runtime.Exec(within(t), &runtimeapi.ExecRequest{ContainerId: c.ID, Cmd: []string{"true"}, Tty: true, Stderr: true})
		wantCode(t, "tty with stderr", err, codes.InvalidArgument)
	})
	t.Run("exec_with_a_zero_byte", func(t *testing.T) {
		_, err := c.in(t).execSync(5, "sh\x00", "-c", "true")
		if code := status.Code(err); code != codes.InvalidArgument {
			t.Errorf("%v", err)
		}
	})
}
