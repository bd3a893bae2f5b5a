package sandbox

import (
	"errors"
	"math"
	"net/netip"
	"path/filepath"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
)

// The rules about what may be asked beside those of package oci and of sysctls.go. Those
// about pods are asked by planPod, and nowhere else. The two that are exported are about
// sessions: package cri asks them too, before it gives out the URL of a session.

// maxHostname is the kernel's limit, HOST_NAME_MAX.
const maxHostname = 64

// checkPodFiles refuses what can't be the pod's name or be written to its files.
func checkPodFiles(cfg *runtimeapi.PodSandboxConfig) error {
	if h := cfg.GetHostname(); len(h) > maxHostname || strings.ContainsAny(h, "\x00\n/") {
		return failed(ErrInvalid, "hostname is %.200q; give a name of at most %d bytes without slashes, line breaks and zero bytes", h, maxHostname)
	}
	if dir := cfg.GetLogDirectory(); dir != "" && (!isPath(dir) || !filepath.IsAbs(dir)) {
		return failed(ErrInvalid, "log_directory is %.200q; give an absolute path of less than %d bytes", dir, unix.PathMax)
	}
	return checkDNS(cfg.GetDnsConfig())
}

// checkPodLimits refuses what can be no limits of a pod; an update of them asks the same.
func checkPodLimits(cfg *runtimeapi.PodSandboxConfig) error {
	l := cfg.GetLinux()
	return asDomain(errors.Join(oci.CheckResources(l.GetOverhead()), oci.CheckResources(l.GetResources())))
}

// checkDNS refuses what would be lines of their own in resolv.conf, or be no server,
// rather than leave it out.
func checkDNS(dns *runtimeapi.DNSConfig) error {
	for _, s := range dns.GetServers() {
		if strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
			return failed(ErrInvalid, "dns_config.servers has %.200q; give one address each, without white space", s)
		}
	}
	for field, list := range map[string][]string{"searches": dns.GetSearches(), "options": dns.GetOptions()} {
		for _, s := range list {
			if strings.ContainsFunc(s, func(r rune) bool { return r != '\t' && unicode.IsControl(r) }) {
				return failed(ErrInvalid, "dns_config.%s has %.200q; take the line breaks and control characters out", field, s)
			}
		}
	}
	return nil
}

// checkPorts refuses ports that can't be mapped, whether the network's plugins would
// map them or not.
func checkPorts(cfg *runtimeapi.PodSandboxConfig) error {
	for _, p := range cfg.GetPortMappings() {
		if err := checkPort(p); err != nil {
			return err
		}
	}
	return nil
}

func checkPort(p *runtimeapi.PortMapping) error {
	for field, n := range map[string]int32{"container_port": p.GetContainerPort(), "host_port": p.GetHostPort()} {
		if n < 0 || n > math.MaxUint16 {
			return failed(ErrInvalid, "port mapping: %s %d is not a port; use 0 to 65535", field, n)
		}
	}
	if p.GetHostPort() > 0 && p.GetContainerPort() == 0 {
		return failed(ErrInvalid, "port mapping: host_port %d leads to container_port 0; give the pod's port", p.GetHostPort())
	}
	if _, ok := runtimeapi.Protocol_name[int32(p.GetProtocol())]; !ok {
		return failed(ErrInvalid, "port mapping: protocol %d is unknown; use TCP, UDP or SCTP", p.GetProtocol())
	}
	if ip := p.GetHostIp(); ip != "" {
		if _, err := netip.ParseAddr(ip); err != nil {
			return failed(ErrInvalid, "port mapping: host_ip %.200q is not an address; leave it empty for all", ip)
		}
	}
	return nil
}

// CheckCommand refuses a command that can't be executed. The error wraps [ErrInvalid].
func CheckCommand(cmd []string) error {
	if len(cmd) == 0 || cmd[0] == "" {
		return failed(ErrInvalid, "cmd is empty; give the program and its arguments")
	}
	for _, s := range cmd {
		if strings.ContainsRune(s, 0) {
			return failed(ErrInvalid, "cmd contains a zero byte; the kernel can't pass it to a program")
		}
	}
	return nil
}

// CheckPort refuses what is no TCP port of a pod. The error wraps [ErrInvalid].
func CheckPort(port int32) error {
	if port < 1 || port > math.MaxUint16 {
		return failed(ErrInvalid, "port %d is not a port; use 1 to 65535", port)
	}
	return nil
}

// isPath tells whether a string can be a path: it has no NUL byte and no line break and
// is not too long for the kernel.
func isPath(p string) bool { return len(p) < unix.PathMax && !strings.ContainsAny(p, "\x00\n") }
