package idmap

import "syscall"

// Map is one line of a user namespace's UID or GID map (user_namespaces(7)): Size IDs,
// beginning with ContainerID in the user namespace and with HostID outside.
type Map struct {
	ContainerID uint32 `json:"container_id"`
	HostID      uint32 `json:"host_id"`
	Size        uint32 `json:"size"`
}

// SysProc converts maps for [syscall.SysProcAttr]; nil if there are none.
func SysProc(maps []Map) []syscall.SysProcIDMap {
	var out []syscall.SysProcIDMap
	for _, m := range maps {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
	}
	return out
}
