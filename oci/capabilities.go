package oci

import (
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// capabilityNames are Linux's, in bit order.
var capabilityNames = func() (names []string) {
	for _, c := range capability.ListKnown() {
		names = append(names, "CAP_"+strings.ToUpper(c.String()))
	}
	return names
}()

// defaultCapabilities are those of Docker and containerd, which images rely on.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE",
	"CAP_NET_RAW", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_SETFCAP",
}

// CapabilityNames are those of a mask as /proc/PID/status has it, in bit order.
func CapabilityNames(mask uint64) []string {
	var names []string
	for bit, name := range capabilityNames {
		if mask&(1<<bit) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// DefaultCapabilities are what a container has that asks for nothing.
func DefaultCapabilities() []string { return slices.Clone(defaultCapabilities) }

const allCapabilities = "ALL"

// capabilities puts only the ambient capabilities into the inheritable set. With all of
// them in it, a process that is not root could gain some by executing a file that has
// inheritable file capabilities (CVE-2022-24769).
func (b *builder) capabilities() error {
	conf, err := parseCapabilities(b.sc.GetCapabilities())
	if err != nil {
		return err
	}
	base := defaultCapabilities
	if own := b.host.Defaults.Capabilities; own != nil {
		base = own
	}
	if b.privileged() {
		base, conf.drop, conf.dropAll = b.host.Capabilities, nil, false
	}
	set := b.held(conf.apply(base, b.host.Capabilities))
	ambient := b.held(conf.ambientSet(b.host.Capabilities))
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding:    set,
		Effective:   set,
		Permitted:   set,
		Inheritable: ambient,
		Ambient:     ambient,
	}
	return nil
}

// held gives the names in bit order, without those that the daemon lacks: a process
// can't pass on a capability that it does not have.
func (b *builder) held(set map[string]bool) []string {
	var out []string
	for _, name := range capabilityNames {
		if set[name] && slices.Contains(b.host.Capabilities, name) {
			out = append(out, name)
		}
	}
	return out
}

// capabilityChange is a [runtimeapi.Capability] with its names made canonical.
type capabilityChange struct {
	add, drop, ambient          []string
	addAll, dropAll, ambientAll bool
}

func parseCapabilities(c *runtimeapi.Capability) (capabilityChange, error) {
	var out capabilityChange
	var err error
	if out.add, out.addAll, err = parseCapabilityList("add_capabilities", c.GetAddCapabilities()); err != nil {
		return out, err
	}
	if out.drop, out.dropAll, err = parseCapabilityList("drop_capabilities", c.GetDropCapabilities()); err != nil {
		return out, err
	}
	out.ambient, out.ambientAll, err = parseCapabilityList("add_ambient_capabilities", c.GetAddAmbientCapabilities())
	return out, err
}

func parseCapabilityList(field string, list []string) (names []string, all bool, err error) {
	for _, s := range list {
		name := strings.ToUpper(s)
		if name == allCapabilities {
			all = true
			continue
		}
		if !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		if !slices.Contains(capabilityNames, name) {
			return nil, false, invalid("capabilities.%s: Linux has no capability %s", field, clip(s))
		}
		names = append(names, name)
	}
	return names, all, nil
}

// apply starts from base; ALL counts before single names, and drop after add.
func (c capabilityChange) apply(base, all []string) map[string]bool {
	set := map[string]bool{}
	put := func(names []string, value bool) {
		for _, n := range names {
			set[n] = value
		}
	}
	put(base, true)
	if c.addAll || c.ambientAll {
		put(all, true)
	}
	if c.dropAll {
		clear(set)
	}
	put(c.add, true)
	put(c.ambient, true)
	put(c.drop, false)
	return set
}

func (c capabilityChange) ambientSet(all []string) map[string]bool {
	c.add, c.addAll = nil, false
	return c.apply(nil, all)
}

// LackedCapabilities are those the container asks for by name and won't have,
// as the daemon lacks them. It is for a log line.
func LackedCapabilities(sc *runtimeapi.LinuxContainerSecurityContext, h Host) []string {
	conf, err := parseCapabilities(sc.GetCapabilities())
	if err != nil {
		return nil
	}
	var out []string
	for _, name := range slices.Concat(conf.add, conf.ambient) {
		if !slices.Contains(h.Capabilities, name) && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}
