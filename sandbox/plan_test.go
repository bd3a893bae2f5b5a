package sandbox

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/sandbox/record"
)

var update = flag.Bool("update", false, "write the golden files of the plans")

// planOf plans the pod of a configuration, whose ID is all 0.
func planOf(cfg *runtimeapi.PodSandboxConfig, h oci.Host) (podPlan, error) {
	level, settle, err := newIndex().takeLevel(cfg, h)
	if err != nil {
		return podPlan{}, err
	}
	defer settle()
	rec := podRecord{Pod: record.Pod{ID: strings.Repeat("0", 64), SELinuxLevel: level}, config: cfg}
	paths := layout{root: "/root", state: "/state"}
	rec.derive(paths)
	return planPod(&rec, h, paths)
}

// Each golden file is the whole plan of one configuration.
func TestPlansOfPods(t *testing.T) {
	hostOf := func(change func(*oci.Host)) oci.Host {
		h := testHost()
		h.UserNS, h.IDMap = true, true
		change(&h)
		return h
	}
	same := func(*oci.Host) {}
	ids := []*runtimeapi.IDMapping{{HostId: 100000, Length: 65536}}
	for name, tt := range map[string]struct {
		host   func(*oci.Host)
		change func(cfg *runtimeapi.PodSandboxConfig, ns *runtimeapi.NamespaceOption)
	}{
		"own": {same, func(*runtimeapi.PodSandboxConfig, *runtimeapi.NamespaceOption) {}},
		"host": {same, func(_ *runtimeapi.PodSandboxConfig, ns *runtimeapi.NamespaceOption) {
			ns.Network, ns.Ipc, ns.Pid = nsNode, nsNode, nsNode
		}},
		"shared-pid": {same, func(_ *runtimeapi.PodSandboxConfig, ns *runtimeapi.NamespaceOption) { ns.Pid = nsPod }},
		"users": {same, func(_ *runtimeapi.PodSandboxConfig, ns *runtimeapi.NamespaceOption) {
			ns.UsernsOptions = &runtimeapi.UserNamespace{Mode: nsPod, Uids: ids, Gids: ids}
		}},
		"sysctls": {same, func(cfg *runtimeapi.PodSandboxConfig, _ *runtimeapi.NamespaceOption) {
			cfg.Linux.Sysctls = map[string]string{
				"net.ipv4.conf.eth0.rp_filter": "0", "kernel.domainname": "example.test",
				"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1",
			}
		}},
		"cgroup-parent": {same, func(cfg *runtimeapi.PodSandboxConfig, _ *runtimeapi.NamespaceOption) {
			cfg.Linux.CgroupParent = "/kubepods/burstable/pod1"
		}},
		"systemd-without-privilege": {func(h *oci.Host) { h.SystemdCgroup, h.LowerOOM, h.OOMScoreAdj = true, false, -500 }, func(cfg *runtimeapi.PodSandboxConfig, _ *runtimeapi.NamespaceOption) {
			cfg.Linux.CgroupParent = "kubepods-pod1.slice"
		}},
		"user-of-pause": {same, func(cfg *runtimeapi.PodSandboxConfig, _ *runtimeapi.NamespaceOption) {
			sc := cfg.Linux.SecurityContext
			sc.RunAsUser, sc.RunAsGroup = &runtimeapi.Int64Value{Value: 1000}, &runtimeapi.Int64Value{Value: 2000}
			sc.SupplementalGroups = []int64{3000}
		}},
		"selinux": {func(h *oci.Host) { h.SELinux, h.Labels = true, testLabels }, func(cfg *runtimeapi.PodSandboxConfig, _ *runtimeapi.NamespaceOption) {
			cfg.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:c7,c9"}
		}},
		"dns": {same, func(cfg *runtimeapi.PodSandboxConfig, _ *runtimeapi.NamespaceOption) {
			cfg.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"10.0.0.1"}, Searches: []string{"cluster.test"}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := networked("a")
			tt.change(cfg, cfg.Linux.SecurityContext.NamespaceOptions)
			plan, err := planOf(cfg, hostOf(tt.host))
			if err != nil {
				t.Fatal(err)
			}
			wantPlan(t, name, plan)
		})
	}
}

// wantPlan compares a plan with its golden file.
func wantPlan(t *testing.T, name string, plan any) {
	t.Helper()
	got, err := json.MarshalIndent(plan, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "plans", name+".json")
	if *update {
		if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(bytes.TrimSpace(want), got) {
		t.Errorf("the plan is\n%s\nwant\n%s, %v", got, want, err)
	}
}

// What can't become a pod is refused by its plan, before anything is made.
func TestPlansThatAreRefused(t *testing.T) {
	systemd := testHost()
	systemd.SystemdCgroup = true
	for name, tt := range map[string]struct {
		host   oci.Host
		change func(*runtimeapi.PodSandboxConfig)
		want   error
	}{
		"a sysctl of the node": {testHost(), func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"vm.swappiness": "1"} }, ErrInvalid},
		"a class of the cache": {testHost(), func(c *runtimeapi.PodSandboxConfig) {
			c.Annotations = map[string]string{"rdt.resources.beta.kubernetes.io/pod": "gold"}
		}, ErrUnsupported},
		"overhead that is none": {testHost(), func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Overhead = &runtimeapi.LinuxContainerResources{CpuPeriod: -1}
		}, ErrInvalid},
		"a class of disks": {testHost(), func(c *runtimeapi.PodSandboxConfig) {
			c.Annotations = map[string]string{"blockio.resources.beta.kubernetes.io/container.app": "slow"}
		}, ErrUnsupported},
		"an annotation": {testHost(), func(c *runtimeapi.PodSandboxConfig) { c.Annotations = map[string]string{InitAnnotation: "yes"} }, ErrInvalid},
		"no slice":      {systemd, func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "/kubepods/pod1" }, ErrInvalid},
		"a colon":       {testHost(), func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "/a:b" }, ErrInvalid},
		"a negative user": {testHost(), func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: -1}
		}, ErrInvalid},
	} {
		cfg := networked("a")
		tt.change(cfg)
		_, err := planOf(cfg, tt.host)
		wantError(t, name, err, tt.want)
	}
}
