package integration

import (
	"fmt"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
)

const linkDown = "ip link set lo down" // needs NET_ADMIN in the pod's network

// capabilities asks for a change of the sets, for a user other than root unless
// uid is 0.
func capabilities(uid int64, change *runtimeapi.Capability) func(*runtimeapi.ContainerConfig) {
	return guarded(func(sc *runtimeapi.LinuxContainerSecurityContext) {
		sc.RunAsUser, sc.Capabilities = &runtimeapi.Int64Value{Value: uid}, change
	})
}

// S04: one capability more or less without privileged: that bit differs and no
// other, and a process that is not root has it when it is asked for as ambient.
func TestS04Capabilities(t *testing.T) {
	p := shared.pod(t)
	daemon := daemonsCaps(t)
	base := maskOf(oci.DefaultCapabilities()) & daemon
	netAdmin := maskOf([]string{"CAP_NET_ADMIN"})
	only := []string{"NET_ADMIN"}
	for name, c := range map[string]struct {
		uid                    int64
		change                 *runtimeapi.Capability
		bounding, has, ambient uint64
		fact                   string // of the capabilities in effect, as explain has it
	}{
		"untouched": {0, nil, base, base, 0, "the default"},
		"added":     {0, &runtimeapi.Capability{AddCapabilities: only}, base | netAdmin, base | netAdmin, 0, "the default ones and CAP_NET_ADMIN"},
		"dropped":   {0, &runtimeapi.Capability{DropCapabilities: []string{"CHOWN"}}, base &^ maskOf([]string{"CAP_CHOWN"}), base &^ maskOf([]string{"CAP_CHOWN"}), 0, "the default ones without CAP_CHOWN"},
		"drop-lacked": {
			0, &runtimeapi.Capability{DropCapabilities: []string{"CAP_SYS_TIME"}}, base, base, 0, "the default",
		},
		"not-root": {1000, &runtimeapi.Capability{AddCapabilities: only}, base | netAdmin, 0, 0, "none"},
		"ambient": {
			1000, &runtimeapi.Capability{AddAmbientCapabilities: only}, base | netAdmin, netAdmin, netAdmin, "CAP_NET_ADMIN",
		},
	} {
		t.Run(name, func(t *testing.T) {
			run := p.in(t).idle(name, capabilities(c.uid, c.change))
			pid := run.hostPID()
			for set, want := range map[string]uint64{"CapBnd": c.bounding, "CapEff": c.has, "CapPrm": c.has, "CapAmb": c.ambient, "CapInh": c.ambient} {
				if got := capMask(t, pid, set); got != want {
					t.Errorf("%s is %x, want %x: differs by %v", set, got, want, oci.CapabilityNames(got^want))
				}
			}
			if got := run.fact("security", "capabilities"); !strings.HasPrefix(got, c.fact) {
				t.Errorf("explain has capabilities %q, want %q", got, c.fact)
			}
			weak := strings.Join(run.p.audit()[name].Weak, "; ")
			if may := strings.Contains(weak, "may have CAP_NET_ADMIN"); may != (c.bounding&netAdmin != 0) {
				t.Errorf("audit: %q", weak)
			}
		})
	}
	t.Run("sys-time", func(t *testing.T) { withoutSysTime(t, p.in(t), daemon) })
	t.Run("used", func(t *testing.T) { useNetAdmin(t) })
}

// withoutSysTime drops one of all.
func withoutSysTime(t *testing.T, p *pod, daemon uint64) {
	t.Helper()
	bit := maskOf([]string{"CAP_SYS_TIME"})
	if daemon&bit == 0 {
		t.Skip("the daemon itself lacks CAP_SYS_TIME here, so there is none to drop")
	}
	c := p.idle("sys-time", capabilities(0, &runtimeapi.Capability{AddCapabilities: []string{"ALL"}, DropCapabilities: []string{"SYS_TIME"}}))
	if got := capMask(t, c.hostPID(), "CapEff"); got != daemon&^bit {
		t.Errorf("CapEff is %x, want %x", got, daemon&^bit)
	}
}

// useNetAdmin does with the capability what it is for; each in a pod of its own,
// whose loopback it takes down.
func useNetAdmin(t *testing.T) {
	only := []string{"NET_ADMIN"}
	for name, c := range map[string]struct {
		uid    int64
		change *runtimeapi.Capability
		works  bool
	}{
		"root-without":     {0, nil, false},
		"root-with":        {0, &runtimeapi.Capability{AddCapabilities: only}, true},
		"not-root-added":   {1000, &runtimeapi.Capability{AddCapabilities: only}, false},
		"not-root-ambient": {1000, &runtimeapi.Capability{AddAmbientCapabilities: only}, true},
	} {
		p := shared.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = name })
		run := p.start(name, linkDown+"; echo code=$?; exec sleep 1000", capabilities(c.uid, c.change))
		run.says("code=")
		// The kernel's flags of the device: IFF_UP is bit 0.
		flags := run.Sh("cat /sys/class/net/lo/flags")
		if down := strings.TrimSpace(flags) == "0x8"; down != c.works {
			t.Errorf("%s: the loopback's flags are %s", name, flags)
		}
		if uid := strings.Fields(procStatus(t, run.hostPID())["Uid"])[0]; uid != fmt.Sprint(c.uid) {
			t.Errorf("%s: it runs as %s", name, uid)
		}
	}
}
