package sandbox

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/shimapi"
	"berth/oci/thread"
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
			return failed(ErrUnsupported, "pods with user namespaces can't pass %s: chmod o+x it, or choose another state directory", dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// namespace is an open namespace and its CLONE_NEW… flag.
type namespace struct {
	file *os.File
	kind int
}

// inNamespaces runs f on a thread of its own that has entered the namespaces.
func inNamespaces(all []namespace, f func() error) (err error) {
	thread.Run(func() {
		for _, ns := range all {
			if err = unix.Setns(int(ns.file.Fd()), ns.kind); err != nil {
				err = fmt.Errorf("enter namespace: %w", err)
				return
			}
		}
		err = f()
	})
	return err
}
