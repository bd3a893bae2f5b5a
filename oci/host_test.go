package oci

import (
	"slices"
	"testing"

	"github.com/moby/sys/mountinfo"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestDetectHost(t *testing.T) {
	h, err := DetectHost()
	if err != nil {
		t.Fatal(err)
	}
	if h.Kernel[0] < 4 || h.Hostname == "" || h.Arch == "" || h.Controllers == nil {
		t.Errorf("got %+v", h)
	}
	if h.LowerOOM != slices.Contains(h.Capabilities, "CAP_SYS_RESOURCE") {
		t.Error("LowerOOM doesn't follow CAP_SYS_RESOURCE")
	}
}

func TestDetectV1Controllers(t *testing.T) {
	var h Host
	detectV1(&h, []*mountinfo.Info{
		{FSType: "cgroup", Mountpoint: cgroupRoot + "/cpu,cpuacct", VFSOptions: "rw,cpu,cpuacct"},
		{FSType: "cgroup", Mountpoint: cgroupRoot + "/systemd", VFSOptions: "rw,xattr,name=systemd"},
		{FSType: "cgroup", Mountpoint: "/elsewhere/memory", VFSOptions: "rw,memory"},
		{FSType: "cgroup2", Mountpoint: cgroupRoot + "/unified", VFSOptions: "rw,nsdelegate"},
	})
	if !h.Controllers["cpu"] || !h.Controllers["cpuacct"] || h.Controllers["memory"] || h.Controllers["name=systemd"] {
		t.Errorf("got %v", h.Controllers)
	}
}

func TestCgroupFlags(t *testing.T) {
	if got := cgroupFlags("rw,nsdelegate,memory_recursiveprot,seclabel"); !slices.Equal(got, []string{"nsdelegate", "memory_recursiveprot"}) {
		t.Errorf("got %q", got)
	}
}

func TestParseStatusCapabilities(t *testing.T) {
	got, err := parseStatusCapabilities("Name:\tx\nCapInh:\t0\nCapPrm:\t00000000000000ff\nCapBnd:\tffffffffffffff01\n")
	if err != nil || !slices.Equal(got, []string{"CAP_CHOWN"}) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := parseStatusCapabilities("Name:\tx\n"); err == nil {
		t.Error("no error without the lines")
	}
}

func TestParseKernel(t *testing.T) {
	for release, want := range map[string][2]int{"6.18.44-x": {6, 18}, "5.4": {5, 4}, "4.19-rc1": {4, 19}, "odd": {}} {
		if got := parseKernel(release); got != want {
			t.Errorf("%s: got %v", release, got)
		}
	}
}

func TestFeatures(t *testing.T) {
	h := v2Host()
	if f := h.HandlerFeatures(); !f.RecursiveReadOnlyMounts || !f.UserNamespaces {
		t.Errorf("got %v", f)
	}
	if f := h.Features(); !f.MountOptions || !f.SupplementalGroupsPolicy || !f.UserNamespacesHostNetwork {
		t.Errorf("got %v", f)
	}
	h.IDMap = false
	if h.HandlerFeatures().UserNamespaces || h.Features().UserNamespacesHostNetwork {
		t.Error("user namespaces without idmapped mounts")
	}
}

func TestLackedCapabilities(t *testing.T) {
	sc := &runtimeapi.LinuxContainerSecurityContext{Capabilities: &runtimeapi.Capability{
		AddCapabilities: []string{"ALL", "sys_resource", "chown"}, AddAmbientCapabilities: []string{"CAP_SYS_RESOURCE"},
	}}
	if got := LackedCapabilities(sc, v1Host()); !slices.Equal(got, []string{"CAP_SYS_RESOURCE"}) {
		t.Errorf("got %q", got)
	}
	if got := LackedCapabilities(nil, v1Host()); got != nil {
		t.Errorf("got %q", got)
	}
}

func TestResolvConf(t *testing.T) {
	host := []byte("nameserver 9.9.9.9\n")
	for name, c := range map[string]struct {
		dns  *runtimeapi.DNSConfig
		want string
	}{
		"nil":   {nil, string(host)},
		"empty": {&runtimeapi.DNSConfig{Servers: []string{""}}, string(host)},
		"all": {&runtimeapi.DNSConfig{Servers: []string{"1.1.1.1", "::1"}, Searches: []string{"a.b", "c"}, Options: []string{"ndots:5", "edns0"}},
			"search a.b c\nnameserver 1.1.1.1\nnameserver ::1\noptions ndots:5 edns0\n"},
		"several words": {&runtimeapi.DNSConfig{Searches: []string{"a.b  c"}, Options: []string{"ndots:2 timeout:1", " edns0\t"}},
			"search a.b c\noptions ndots:2 timeout:1 edns0\n"},
		"injection in words": {&runtimeapi.DNSConfig{Options: []string{"ndots:2 x\nnameserver 6.6.6.6", "a b"}, Searches: []string{"a\rb"}}, "options a b\n"},
		"injection":          {&runtimeapi.DNSConfig{Servers: []string{"1.1.1.1\nnameserver 6.6.6.6", "2.2.2.2"}}, "nameserver 2.2.2.2\n"},
	} {
		if got := string(ResolvConf(c.dns, host)); got != c.want {
			t.Errorf("%s: got %q", name, got)
		}
	}
}
