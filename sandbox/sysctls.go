package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/procfs"
	"berth/oci/shimapi"
)

// maxSysctl is the longest name or value of a sysctl taken, in bytes; what pause
// has room for.
const maxSysctl = 256

// checkSysctls refuses sysctls that would change the host: only those the
// kernel keeps per namespace, and only when the pod has that namespace.
func checkSysctls(cfg *runtimeapi.PodSandboxConfig) error {
	for name, value := range cfg.GetLinux().GetSysctls() {
		if len(name) > maxSysctl || strings.ContainsAny(name, "\x00\n") || strings.Contains(name, "..") {
			return failed(ErrInvalid, "sysctl %.*q is not a name", maxSysctl, name)
		}
		if len(value) > maxSysctl || strings.ContainsAny(value, "\x00\n") {
			return failed(ErrInvalid, "sysctl %s: a value has at most %d bytes, no line break and no zero byte", name, maxSysctl)
		}
		if _, err := shimapi.SysctlPath(name); err != nil {
			return failed(ErrInvalid, "%w", err)
		}
		if why := ofTheHost(strings.ReplaceAll(name, "/", "."), cfg); why != "" {
			return failed(ErrInvalid, "sysctl %s %s", name, why)
		}
	}
	return nil
}

// ofTheHost tells why a pod can't have a sysctl, by its dotted name; "" when it can.
func ofTheHost(name string, cfg *runtimeapi.PodSandboxConfig) string {
	switch {
	case strings.HasPrefix(name, "net."):
		if hostNetwork(cfg) {
			return "would change the host: it needs the pod's own network namespace"
		}
	case name == "kernel.domainname": // uts_namespaces(7)
		if hostNetwork(cfg) {
			return "would change the host: a pod on the host's network has the host's names"
		}
	case isIPCSysctl(name):
		if hostIPC(cfg) {
			return "would change the host: it needs the pod's own IPC namespace"
		}
	default:
		return "is not kept per namespace by the kernel; set it on the node"
	}
	return ""
}

// isIPCSysctl: ipc_namespaces(7).
func isIPCSysctl(name string) bool {
	switch name {
	case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
		"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced":
		return true
	}
	return strings.HasPrefix(name, "fs.mqueue.")
}

// podSysctls adds to the sysctls asked for the two that let a container bind
// low ports and ping without a capability; its network namespace is its own.
func podSysctls(cfg *runtimeapi.PodSandboxConfig) map[string]string {
	out := make(map[string]string)
	if !hostNetwork(cfg) {
		out["net.ipv4.ip_unprivileged_port_start"] = "0"
		out["net.ipv4.ping_group_range"] = pingRange(cfg)
	}
	for name, value := range cfg.GetLinux().GetSysctls() {
		delete(out, strings.ReplaceAll(name, "/", ".")) // both spellings are one setting
		out[name] = value
	}
	return out
}

// pingRange is every group of the pod; the kernel refuses groups a user
// namespace does not map.
func pingRange(cfg *runtimeapi.PodSandboxConfig) string {
	_, gids := userMaps(cfg)
	if len(gids) == 0 {
		return "0 2147483647"
	}
	return fmt.Sprintf("0 %d", gids[0].Size-1)
}

// splitSysctls parts what pause writes as the pod begins from what can only be
// written, by the daemon, when the pod is attached to its network: settings of an
// interface that CNI makes, and of those the domain name, which the kernel lets nobody
// but the host's root set.
func splitSysctls(all map[string]string) (early, late map[string]string) {
	early, late = map[string]string{}, map[string]string{}
	for name, value := range all {
		path, err := shimapi.SysctlPath(name)
		if err == nil && (ofInterface(path) || path == domainName) {
			late[name] = value
		} else {
			early[name] = value
		}
	}
	return early, late
}

const domainName = "kernel/domainname"

// ofInterface tells whether a sysctl, as a path, is of one network interface that is
// not there from the start, as in net/ipv4/conf/eth0/rp_filter.
func ofInterface(path string) bool {
	parts := strings.Split(path, "/")
	if len(parts) < 5 || parts[0] != "net" || parts[2] != "conf" && parts[2] != "neigh" {
		return false
	}
	return !slices.Contains([]string{"all", "default", "lo"}, parts[3])
}

// writeLateSysctls writes the late ones of splitSysctls in the pod's namespaces.
func writeLateSysctls(rec *podRecord, late map[string]string) error {
	if len(late) == 0 {
		return nil
	}
	// Of a process, so that they are surely this pod's: see the check below.
	names, err := os.Open(fmt.Sprintf("/proc/%d/ns/uts", rec.PausePID))
	if err != nil {
		return fmt.Errorf("open the UTS namespace of the pod: %w", err)
	}
	defer func() { _ = names.Close() }()
	if err := procfs.Lives(rec.PausePID, rec.PauseStart); err != nil {
		return failed(ErrState, "the pause process while the pod was made: %w", err)
	}
	net, err := os.Open(rec.netns)
	if err != nil {
		return fmt.Errorf("open the network namespace of the pod: %w", err)
	}
	defer func() { _ = net.Close() }()
	return inNamespaces([]namespace{{net, unix.CLONE_NEWNET}, {names, unix.CLONE_NEWUTS}}, func() error {
		for _, name := range slices.Sorted(maps.Keys(late)) {
			if err := writeSysctl(name, late[name]); err != nil {
				return err
			}
		}
		return nil
	})
}

// writeSysctl writes a sysctl in the namespaces of the calling thread.
func writeSysctl(name, value string) error {
	path, err := shimapi.SysctlPath(name)
	if err != nil {
		return failed(ErrInvalid, "%w", err)
	}
	f, err := os.OpenFile(filepath.Join("/proc/sys", path), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return failed(ErrInvalid, "sysctl %s: the kernel has no such setting in the pod's network: does the pod have that interface?", name)
	}
	if err == nil {
		_, err = f.WriteString(value)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return failed(ErrInvalid, "sysctl %s: the kernel refuses %q: %w", name, value, err)
	}
	return nil
}
