package cri

import (
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Limits of what a request may hold, in bytes. Kubernetes' own are smaller (a
// name 253, annotations 256 KiB); these keep records and lists within reason.
const (
	maxName        = 1 << 10
	maxID          = 256
	maxHostname    = 64 // of the kernel, HOST_NAME_MAX
	maxPath        = 4 << 10
	maxFileName    = 255 // of the kernel, NAME_MAX
	maxAnnotations = 512 << 10
)

// checkID refuses empty and overlong IDs. Whether there is such an ID is for the domain
// to look up.
func checkID(field, id string) error {
	switch {
	case id == "":
		return invalid("%s is empty; give the ID or an unambiguous prefix of it", field)
	case len(id) > maxID:
		return invalid("%s is %d bytes long; an ID has 64 characters", field, len(id))
	}
	return nil
}

func checkName(field, name string) error {
	if len(name) > maxName {
		return invalid("%s is %d bytes long; use at most %d", field, len(name), maxName)
	}
	if strings.ContainsAny(name, "\x00\n/") {
		return invalid("%s contains a slash, a line break or a zero byte; take it out", field)
	}
	return nil
}

// checkPodName is of what travels to the network's plugins in CNI_ARGS, a list
// NAME=VALUE;NAME=VALUE. They refuse a broken one when the pod goes as well: it
// could never be removed.
func checkPodName(field, name string) error {
	if strings.ContainsAny(name, ";=") {
		return invalid("%s contains a semicolon or an equals sign, which network plugins can't be told; take it out", field)
	}
	return checkName(field, name)
}

// checkPath: empty is fine; a path must be absolute and can't leave where it points.
func checkPath(field, p string) error {
	switch {
	case p == "":
		return nil
	case len(p) > maxPath:
		return invalid("%s is %d bytes long; use at most %d", field, len(p), maxPath)
	case strings.ContainsRune(p, 0):
		return invalid("%s contains a zero byte; take it out", field)
	case !filepath.IsAbs(p):
		return invalid("%s is %q; give an absolute path", field, p)
	}
	return nil
}

func checkPairs(field string, pairs map[string]string) error {
	size := 0
	for k, v := range pairs {
		size += len(k) + len(v)
	}
	if size > maxAnnotations {
		return invalid("%s take %d bytes; use at most %d in all", field, size, maxAnnotations)
	}
	return nil
}

// seconds turns a request's timeout into a duration; 0 stays 0.
func seconds(n int64) (time.Duration, error) {
	if n < 0 {
		return 0, invalid("timeout is %d seconds; give 0 or more", n)
	}
	if n > int64(math.MaxInt64/time.Second) {
		return math.MaxInt64, nil
	}
	return time.Duration(n) * time.Second, nil
}

func firstError(checks ...error) error {
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkDNS: what would be lines of their own in resolv.conf, or be no server, is
// refused rather than left out.
func checkDNS(c *runtimeapi.DNSConfig) error {
	for _, s := range c.GetServers() {
		if strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
			return invalid("config.dns_config.servers has %q; give one address each, without white space", short(s))
		}
	}
	for field, list := range map[string][]string{"searches": c.GetSearches(), "options": c.GetOptions()} {
		for _, s := range list {
			if strings.ContainsFunc(s, func(r rune) bool { return r != '\t' && unicode.IsControl(r) }) {
				return invalid("config.dns_config.%s has %q; take the line breaks and control characters out", field, short(s))
			}
		}
	}
	return nil
}

func checkPodConfig(c *runtimeapi.PodSandboxConfig) error {
	if c == nil {
		return invalid("config is missing; give the pod sandbox's configuration")
	}
	m := c.GetMetadata()
	if m.GetName() == "" {
		return invalid("config.metadata.name is empty; give the pod's name")
	}
	err := firstError(
		checkPodName("config.metadata.name", m.GetName()),
		checkPodName("config.metadata.namespace", m.GetNamespace()),
		checkPodName("config.metadata.uid", m.GetUid()),
		checkHostname(c.GetHostname()),
		checkPath("config.log_directory", c.GetLogDirectory()),
		checkPairs("config.labels", c.GetLabels()),
		checkPairs("config.annotations", c.GetAnnotations()),
		checkDNS(c.GetDnsConfig()),
		checkCgroupParent(c.GetLinux().GetCgroupParent()),
	)
	if err != nil {
		return err
	}
	for _, p := range c.GetPortMappings() {
		if err := checkPort(p); err != nil {
			return err
		}
	}
	sc := c.GetLinux().GetSecurityContext()
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil {
		return invalid("config.linux.security_context.run_as_group is set without run_as_user; set both")
	}
	return nil
}

func checkHostname(h string) error {
	if len(h) > maxHostname {
		return invalid("config.hostname is %d bytes long; the kernel takes at most %d", len(h), maxHostname)
	}
	return checkName("config.hostname", h)
}

// checkCgroupParent: a path from the cgroup root or a systemd slice.
func checkCgroupParent(p string) error {
	if len(p) > maxPath {
		return invalid("config.linux.cgroup_parent is %d bytes long; use at most %d", len(p), maxPath)
	}
	unfit := func(part string) bool { return part == ".." || len(part) > maxFileName }
	if strings.ContainsAny(p, "\x00\n:") || slices.ContainsFunc(strings.Split(p, "/"), unfit) {
		return invalid("config.linux.cgroup_parent is %q; give a cgroup path without \"..\", colons and names above %d bytes, or a slice's name", p, maxFileName)
	}
	return nil
}

func checkPort(p *runtimeapi.PortMapping) error {
	if p.GetContainerPort() < 0 || p.GetContainerPort() > math.MaxUint16 {
		return invalid("port mapping: container_port %d is not a port; use 0 to 65535", p.GetContainerPort())
	}
	if p.GetHostPort() < 0 || p.GetHostPort() > math.MaxUint16 {
		return invalid("port mapping: host_port %d is not a port; use 0 to 65535", p.GetHostPort())
	}
	if p.GetHostPort() > 0 && p.GetContainerPort() == 0 {
		return invalid("port mapping: host_port %d leads to container_port 0; give the pod's port", p.GetHostPort())
	}
	if _, ok := runtimeapi.Protocol_name[int32(p.GetProtocol())]; !ok {
		return invalid("port mapping: protocol %d is unknown; use TCP, UDP or SCTP", p.GetProtocol())
	}
	if ip := p.GetHostIp(); ip != "" {
		if _, err := netip.ParseAddr(ip); err != nil {
			return invalid("port mapping: host_ip %q is not an address; leave it empty for all", short(ip))
		}
	}
	return nil
}
