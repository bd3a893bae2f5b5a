package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/sandbox/record"
)

const (
	nsPod  = runtimeapi.NamespaceMode_POD
	nsNode = runtimeapi.NamespaceMode_NODE
)

func podWith(ns *runtimeapi.NamespaceOption, sysctls map[string]string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{
		Sysctls:         sysctls,
		SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: ns},
	}}
}

func TestCheckSysctls(t *testing.T) {
	for _, tt := range []struct {
		name string
		ns   *runtimeapi.NamespaceOption
		sys  map[string]string
		want string // part of the error, "" for none
	}{
		{"none", nil, nil, ""},
		{"net", nil, map[string]string{"net.core.somaxconn": "10"}, ""},
		{"net of the host", &runtimeapi.NamespaceOption{Network: nsNode}, map[string]string{"net.core.somaxconn": "1"}, "own network"},
		{"ipc", nil, map[string]string{"kernel.shm_rmid_forced": "1", "fs/mqueue/msg_max": "3"}, ""},
		{"ipc of the host", &runtimeapi.NamespaceOption{Ipc: nsNode}, map[string]string{"kernel.sem": "1"}, "own IPC"},
		{"UTS", nil, map[string]string{"kernel.domainname": "example.test"}, ""},
		{"UTS of the host", &runtimeapi.NamespaceOption{Network: nsNode}, map[string]string{"kernel/domainname": "x"}, "host's names"},
		{"no name", nil, map[string]string{"net.a=b": "1"}, "no name"},
		{"of the node", nil, map[string]string{"vm.swappiness": "1"}, "not kept per namespace"},
		{"that climbs", nil, map[string]string{"net/../vm/swappiness": "1"}, "not a name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := checkSysctls(podWith(tt.ns, tt.sys))
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want ErrInvalid with %q", err, tt.want)
			}
		})
	}
}

func TestPodsNeedACgroupParentForContainers(t *testing.T) {
	for parent, want := range map[string]error{"": nil, "kubepods-pod1.slice": nil, "/kubepods/pod1": ErrInvalid} {
		cfg := podWith(&runtimeapi.NamespaceOption{Network: nsNode}, nil)
		cfg.Linux.CgroupParent = parent
		rec := podRecord{Pod: record.Pod{ID: newID()}, config: cfg}
		if _, err := planPod(&rec, oci.Host{SystemdCgroup: true}, layout{}); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", parent, err, want)
		}
	}
}

func TestPingRangeFitsTheUserNamespace(t *testing.T) {
	m := []*runtimeapi.IDMapping{{HostId: 100000, Length: 65536}}
	cfg := podWith(&runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Mode: nsPod, Uids: m, Gids: m}}, nil)
	if got := podSysctls(cfg)["net.ipv4.ping_group_range"]; got != "0 65535" {
		t.Errorf("ping range %q, want the mapped groups only", got)
	}
	if got := podSysctls(podWith(&runtimeapi.NamespaceOption{Network: nsNode}, nil)); len(got) != 0 {
		t.Errorf("sysctls %v would be written on the host", got)
	}
	own := podSysctls(podWith(nil, map[string]string{"net.ipv4.ip_unprivileged_port_start": "80"}))
	if own["net.ipv4.ip_unprivileged_port_start"] != "80" {
		t.Error("the pod's own sysctl does not win over the default")
	}
	slashes := podSysctls(podWith(nil, map[string]string{"net/ipv4/ip_unprivileged_port_start": "80"}))
	if v, ok := slashes["net.ipv4.ip_unprivileged_port_start"]; ok {
		t.Errorf("the default, %s, is written beside the pod's own", v)
	}
}

func TestCheckTraversableNamesTheDirectory(t *testing.T) {
	base := t.TempDir()
	closed := filepath.Join(base, "closed")
	state := filepath.Join(closed, "state")
	if err := os.MkdirAll(state, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir := base; dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm()&1 == 0 {
			if err := os.Chmod(dir, 0o711); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := checkTraversable(state); err != nil {
		t.Errorf("open all the way: %v", err)
	}
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := checkTraversable(state); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), closed+":") {
		t.Errorf("got %v, want ErrUnsupported that names %s", err, closed)
	}
}

// CNI makes the interfaces, so that their settings can't be written before.
func TestSettingsOfInterfacesComeLast(t *testing.T) {
	all := map[string]string{
		"net.ipv4.conf.eth0.rp_filter": "late", "net/ipv4/conf/eth0.7/rp_filter": "late", "net.ipv4.conf.eth0/7.proxy_arp": "late",
		"net.ipv6.neigh.eth0.retrans_time_ms": "late", "net.mpls.conf.net1.input": "late", "kernel.domainname": "late",
		"net.ipv4.conf.all.rp_filter": "early", "net.ipv4.conf.lo.rp_filter": "early", "net.ipv6.neigh.default.gc_thresh1": "early",
		"net.core.somaxconn": "early", "kernel.sem": "early", "net.ipv4.ip_forward": "early",
	}
	early, late := splitSysctls(all)
	for name, want := range all {
		if early[name] != "" && want == "early" || late[name] != "" && want == "late" {
			continue
		}
		t.Errorf("%s is not written %s", name, want)
	}
	if len(early)+len(late) != len(all) {
		t.Errorf("%d and %d of %d", len(early), len(late), len(all))
	}
}
