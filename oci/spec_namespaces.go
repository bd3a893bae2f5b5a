package oci

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	modePod       = runtimeapi.NamespaceMode_POD
	modeContainer = runtimeapi.NamespaceMode_CONTAINER
	modeNode      = runtimeapi.NamespaceMode_NODE
	modeTarget    = runtimeapi.NamespaceMode_TARGET
)

// PodNamespaces tells which namespaces a pod sandbox has for itself; in the
// others it is where the daemon is. With PID false there is no PID namespace to
// share: each container has the node's or its own.
type PodNamespaces struct {
	Net, IPC, UTS, PID       bool
	UIDMappings, GIDMappings []specs.LinuxIDMapping // empty: no user namespace
}

// User tells whether the pod has a user namespace.
func (n PodNamespaces) User() bool { return len(n.UIDMappings) > 0 }

// NamespacesOf reads the namespace options of a pod sandbox. The error wraps
// [ErrInvalid] for modes a sandbox can't have.
func NamespacesOf(config *runtimeapi.PodSandboxConfig) (PodNamespaces, error) {
	o := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	var ns PodNamespaces
	for _, m := range []struct {
		field string
		mode  runtimeapi.NamespaceMode
		also  runtimeapi.NamespaceMode
	}{
		{"network", o.GetNetwork(), modePod}, {"ipc", o.GetIpc(), modePod}, {"pid", o.GetPid(), modeContainer},
	} {
		if m.mode != modePod && m.mode != modeNode && m.mode != m.also {
			return ns, fmt.Errorf("%w: namespace_options.%s: a pod sandbox can't have mode %s", ErrInvalid, m.field, m.mode)
		}
	}
	ns.Net, ns.IPC, ns.PID = o.GetNetwork() == modePod, o.GetIpc() == modePod, o.GetPid() == modePod
	ns.UTS = ns.Net // a pod on the host's network has the host's name too
	if err := ns.readUser(o); err != nil {
		return ns, err
	}
	if ns.User() && (o.GetPid() == modeNode || o.GetIpc() == modeNode) {
		return ns, fmt.Errorf("%w: namespace_options: a user namespace can't be combined with the node's pid or ipc namespace: use POD for them, or userns_options.mode NODE", ErrInvalid)
	}
	return ns, nil
}

func (n *PodNamespaces) readUser(o *runtimeapi.NamespaceOption) error {
	u := o.GetUsernsOptions()
	if u == nil {
		return nil
	}
	switch {
	case u.GetMode() == modeNode && len(u.GetUids())+len(u.GetGids()) > 0:
		return fmt.Errorf("%w: userns_options: mode NODE takes no mappings", ErrInvalid)
	case u.GetMode() == modeNode:
		return nil
	case u.GetMode() != modePod:
		return fmt.Errorf("%w: userns_options.mode: must be POD or NODE, not %s", ErrInvalid, u.GetMode())
	}
	var err error
	if n.UIDMappings, err = podMapping("uids", u.GetUids()); err != nil {
		return err
	}
	n.GIDMappings, err = podMapping("gids", u.GetGids())
	return err
}

// podMapping wants what the kubelet gives: one range that starts at container ID
// 0. More could hide an ID of the node among the others.
func podMapping(field string, maps []*runtimeapi.IDMapping) ([]specs.LinuxIDMapping, error) {
	if len(maps) != 1 || maps[0].GetContainerId() != 0 || maps[0].GetLength() == 0 ||
		uint64(maps[0].GetHostId())+uint64(maps[0].GetLength()) > 1<<32-1 {
		return nil, fmt.Errorf("%w: userns_options.%s: give exactly one mapping, of container ID 0 and a length of at least 1 within 32 bits", ErrInvalid, field)
	}
	return idMappings(maps), nil
}

func idMappings(maps []*runtimeapi.IDMapping) []specs.LinuxIDMapping {
	out := make([]specs.LinuxIDMapping, 0, len(maps))
	for _, m := range maps {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Size: m.GetLength()})
	}
	return out
}

func (b *builder) namespaces() error {
	if err := b.checkShared(); err != nil {
		return err
	}
	pid, err := b.pidNamespace()
	if err != nil {
		return err
	}
	if b.pod.PID <= 0 && (b.ns.IPC || b.ns.UTS || b.ns.PID || b.ns.User()) {
		return fmt.Errorf("pod sandbox %s has no pause process whose namespaces could be joined", b.pod.ID)
	}
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	join := func(own bool, t specs.LinuxNamespaceType, path string) {
		if own {
			list = append(list, specs.LinuxNamespace{Type: t, Path: path})
		}
	}
	net := b.pod.NetNS
	if net == "" {
		net = nsPath(b.pod.PID, "net")
	}
	join(b.ns.User(), specs.UserNamespace, nsPath(b.pod.PID, "user"))
	join(b.ns.Net, specs.NetworkNamespace, net)
	join(b.ns.IPC, specs.IPCNamespace, nsPath(b.pod.PID, "ipc"))
	join(b.ns.UTS, specs.UTSNamespace, nsPath(b.pod.PID, "uts"))
	if pid != nil {
		list = append(list, *pid)
	}
	// On v1 there is a hierarchy per controller and little gained; who is
	// privileged manages the node's cgroups.
	join(b.host.CgroupV2 && !b.privileged(), specs.CgroupNamespace, "")
	b.spec.Linux.Namespaces = list
	return nil
}

func nsPath(pid int, name string) string { return fmt.Sprintf("/proc/%d/ns/%s", pid, name) }

// checkShared refuses a container that asks for other namespaces than its pod
// has: what a pod shares is decided when it is made.
func (b *builder) checkShared() error {
	o := b.sc.GetNamespaceOptions()
	for _, m := range []struct {
		field string
		mode  runtimeapi.NamespaceMode
		own   bool
	}{{"network", o.GetNetwork(), b.ns.Net}, {"ipc", o.GetIpc(), b.ns.IPC}} {
		if m.mode == modeContainer || m.mode == modeTarget || m.mode == modeNode && m.own {
			return fmt.Errorf("%w: namespace_options.%s: mode %s is not the pod sandbox's: give the container the same as the sandbox", ErrInvalid, m.field, m.mode)
		}
	}
	u := o.GetUsernsOptions()
	if u == nil {
		return nil
	}
	var want PodNamespaces
	if err := want.readUser(o); err != nil {
		return err
	}
	if !slices.Equal(want.UIDMappings, b.ns.UIDMappings) || !slices.Equal(want.GIDMappings, b.ns.GIDMappings) {
		return fmt.Errorf("%w: userns_options: not the pod sandbox's: give the container the same as the sandbox", ErrInvalid)
	}
	return nil
}

// pidMode is the container's own wish, else what its pod does.
func (b *builder) pidMode() (runtimeapi.NamespaceMode, error) {
	pod := b.pod.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid()
	o := b.sc.GetNamespaceOptions()
	if o == nil {
		return pod, nil
	}
	mode := o.GetPid()
	switch {
	case mode == modeNode && pod != modeNode:
		return 0, fmt.Errorf("%w: namespace_options.pid: NODE needs a pod sandbox of pid mode NODE", ErrInvalid)
	case mode == modePod && pod == modeContainer:
		return 0, fmt.Errorf("%w: namespace_options.pid: POD needs a pod sandbox of pid mode POD, this one has CONTAINER: use CONTAINER here or POD there", ErrInvalid)
	case mode == modePod:
		return pod, nil // the namespace of a pod in mode NODE is the node's
	}
	return mode, nil
}

// pidNamespace is nil when the container stays in the node's.
func (b *builder) pidNamespace() (*specs.LinuxNamespace, error) {
	mode, err := b.pidMode()
	if err != nil {
		return nil, err
	}
	ns := specs.LinuxNamespace{Type: specs.PIDNamespace}
	switch mode {
	case modeNode:
		return nil, nil
	case modePod:
		ns.Path = nsPath(b.pod.PID, "pid")
	case modeTarget:
		if b.ctr.TargetPID <= 0 {
			return nil, fmt.Errorf("%w: namespace_options.target_id: container %s is not a running container of this pod", ErrInvalid, clip(b.sc.GetNamespaceOptions().GetTargetId()))
		}
		ns.Path = nsPath(b.ctr.TargetPID, "pid")
	}
	return &ns, nil
}
