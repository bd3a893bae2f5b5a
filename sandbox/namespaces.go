package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/shimapi"
)

func podNamespaces(cfg *runtimeapi.PodSandboxConfig) *runtimeapi.NamespaceOption {
	return cfg.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

func hostNetwork(cfg *runtimeapi.PodSandboxConfig) bool {
	return podNamespaces(cfg).GetNetwork() == runtimeapi.NamespaceMode_NODE
}

func hostIPC(cfg *runtimeapi.PodSandboxConfig) bool {
	return podNamespaces(cfg).GetIpc() == runtimeapi.NamespaceMode_NODE
}

func sharedPID(cfg *runtimeapi.PodSandboxConfig) bool {
	return podNamespaces(cfg).GetPid() == runtimeapi.NamespaceMode_POD
}

// userMaps are the pod's uid and gid maps, nil when it uses the host's users.
func userMaps(cfg *runtimeapi.PodSandboxConfig) (uids, gids []shimapi.IDMap) {
	u := podNamespaces(cfg).GetUsernsOptions()
	if u == nil || u.GetMode() != runtimeapi.NamespaceMode_POD {
		return nil, nil
	}
	return idMaps(u.GetUids()), idMaps(u.GetGids())
}

func idMaps(in []*runtimeapi.IDMapping) []shimapi.IDMap {
	out := make([]shimapi.IDMap, 0, len(in))
	for _, m := range in {
		out = append(out, shimapi.IDMap{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Size: m.GetLength()})
	}
	return out
}

// rootOf is the host ID that uid or gid 0 inside maps to.
func rootOf(maps []shimapi.IDMap) uint32 {
	for _, m := range maps {
		if m.ContainerID == 0 {
			return m.HostID
		}
	}
	return 0
}

// checkTraversable tells which directory keeps the root of a user namespace,
// who is nobody on the host, from getting to its own root filesystem. Without it
// the refusal would come from deep inside the container's start.
func checkTraversable(dir string) error {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("pods with user namespaces can't pass %s: chmod o+x it, or choose another state directory: %w", dir, ErrUnsupported)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// maxSysctl is the longest name or value of a sysctl taken, in bytes; what pause
// has room for.
const maxSysctl = 256

// checkSysctls refuses sysctls that would change the host: only those the
// kernel keeps per namespace, and only when the pod has that namespace.
func checkSysctls(cfg *runtimeapi.PodSandboxConfig) error {
	for name, value := range cfg.GetLinux().GetSysctls() {
		if len(name) > maxSysctl || strings.ContainsAny(name, "\x00\n") || strings.Contains(name, "..") {
			return fmt.Errorf("sysctl %.*q is not a name: %w", maxSysctl, name, ErrInvalid)
		}
		if len(value) > maxSysctl || strings.ContainsAny(value, "\x00\n") {
			return fmt.Errorf("sysctl %s: a value has at most %d bytes, no line break and no zero byte: %w", name, maxSysctl, ErrInvalid)
		}
		dotted := strings.ReplaceAll(name, "/", ".")
		switch {
		case strings.HasPrefix(dotted, "net."):
			if hostNetwork(cfg) {
				return fmt.Errorf("sysctl %s would change the host: it needs the pod's own network namespace: %w", name, ErrInvalid)
			}
		case isIPCSysctl(dotted):
			if hostIPC(cfg) {
				return fmt.Errorf("sysctl %s would change the host: it needs the pod's own IPC namespace: %w", name, ErrInvalid)
			}
		default:
			return fmt.Errorf("sysctl %s is not kept per namespace by the kernel; set it on the node: %w", name, ErrInvalid)
		}
	}
	return nil
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
