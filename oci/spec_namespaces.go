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

// PodNamespaces tells which namespaces a pod sandbox has of its own. Where it has none,
// it uses the daemon's, which is the node's. If PID is false the containers share no PID
// namespace: each uses the node's or has one of its own.
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
			return ns, invalid("namespace_options.%s: a pod sandbox can't have mode %s", m.field, m.mode)
		}
	}
	ns.Net, ns.IPC, ns.PID = o.GetNetwork() == modePod, o.GetIpc() == modePod, o.GetPid() == modePod
	ns.UTS = ns.Net // a pod on the host's network has the host's name too
	if err := ns.readUser(o); err != nil {
		return ns, err
	}
	if ns.User() && (o.GetPid() == modeNode || o.GetIpc() == modeNode) {
		return ns, invalid("namespace_options: a user namespace can't be combined with the node's pid or ipc namespace: use POD for them, or userns_options.mode NODE")
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
		return invalid("userns_options: mode NODE takes no mappings")
	case u.GetMode() == modeNode:
		return nil
	case u.GetMode() != modePod:
		return invalid("userns_options.mode: must be POD or NODE, not %s", u.GetMode())
	}
	var err error
	if n.UIDMappings, err = podMapping("uids", u.GetUids()); err != nil {
		return err
	}
	n.GIDMappings, err = podMapping("gids", u.GetGids())
	return err
}

// podMapping accepts what the kubelet sends, one range that starts at container ID 0.
// Several ranges are refused, since one of them could map an ID of the node itself.
func podMapping(field string, maps []*runtimeapi.IDMapping) ([]specs.LinuxIDMapping, error) {
	if len(maps) != 1 || maps[0].GetContainerId() != 0 || maps[0].GetLength() == 0 ||
		uint64(maps[0].GetHostId())+uint64(maps[0].GetLength()) > 1<<32-1 {
		return nil, invalid("userns_options.%s: give exactly one mapping, of container ID 0 and a length of at least 1 within 32 bits", field)
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

func (b *builder) namespaces() (err error) {
	// On cgroup v1 there is one hierarchy per controller, so that a namespace gains
	// little; a privileged container manages the node's cgroups.
	ownCgroup := b.host.CgroupV2 && !b.privileged()
	b.spec.Linux.Namespaces, err = b.joins().list(ownCgroup)
	return err
}

// joins are the namespaces that the container is to be in.
func (b *builder) joins() namespaceJoins {
	return namespaceJoins{b.pod, b.ns, b.sc.GetNamespaceOptions(), b.ctr.TargetPID}
}

// namespaceJoins decides which namespaces of its pod a container joins.
type namespaceJoins struct {
	pod       Pod
	ns        PodNamespaces
	asked     *runtimeapi.NamespaceOption // of the container; nil when it asks for none
	targetPID int                         // see [Container]
}

// list gives the namespaces for a spec. The error is about the request, or tells that
// the pod has no process that holds them.
func (j namespaceJoins) list(ownCgroup bool) ([]specs.LinuxNamespace, error) {
	if err := j.checkShared(); err != nil {
		return nil, err
	}
	pid, err := j.pidNamespace()
	if err != nil {
		return nil, err
	}
	if j.pod.PID <= 0 && (j.ns.IPC || j.ns.UTS || j.ns.PID || j.ns.User()) {
		return nil, fmt.Errorf("pod sandbox %s has no pause process whose namespaces could be joined", j.pod.ID)
	}
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	join := func(own bool, t specs.LinuxNamespaceType, path string) {
		if own {
			list = append(list, specs.LinuxNamespace{Type: t, Path: path})
		}
	}
	net := j.pod.NetNS
	if net == "" {
		net = nsPath(j.pod.PID, "net")
	}
	join(j.ns.User(), specs.UserNamespace, nsPath(j.pod.PID, "user"))
	join(j.ns.Net, specs.NetworkNamespace, net)
	join(j.ns.IPC, specs.IPCNamespace, nsPath(j.pod.PID, "ipc"))
	join(j.ns.UTS, specs.UTSNamespace, nsPath(j.pod.PID, "uts"))
	if pid != nil {
		list = append(list, *pid)
	}
	join(ownCgroup, specs.CgroupNamespace, "")
	return list, nil
}

func nsPath(pid int, name string) string { return fmt.Sprintf("/proc/%d/ns/%s", pid, name) }

// checkShared refuses a container that asks for other namespaces than its pod
// has: what a pod shares is decided when it is made.
func (j namespaceJoins) checkShared() error {
	if err := j.checkPID(); err != nil {
		return err
	}
	o := j.asked
	for _, m := range []struct {
		field string
		mode  runtimeapi.NamespaceMode
		own   bool
	}{{"network", o.GetNetwork(), j.ns.Net}, {"ipc", o.GetIpc(), j.ns.IPC}} {
		if m.mode != modePod && m.mode != modeNode || m.mode == modeNode && m.own {
			return invalid("namespace_options.%s: mode %s is not the pod sandbox's: give the container the same as the sandbox", m.field, m.mode)
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
	if !slices.Equal(want.UIDMappings, j.ns.UIDMappings) || !slices.Equal(want.GIDMappings, j.ns.GIDMappings) {
		return invalid("userns_options: not the pod sandbox's: give the container the same as the sandbox")
	}
	return nil
}

func (j namespaceJoins) checkPID() error {
	o := j.asked
	switch _, known := runtimeapi.NamespaceMode_name[int32(o.GetPid())]; {
	case !known:
		return invalid("namespace_options.pid: there is no mode %d: give POD, CONTAINER, NODE or TARGET", o.GetPid())
	case o.GetPid() == modeTarget && o.GetTargetId() == "":
		return invalid("namespace_options.pid is TARGET without target_id: name the container whose processes are to be seen")
	case o.GetPid() != modeTarget && o.GetTargetId() != "":
		return invalid("namespace_options.target_id is set while pid is %s: set pid to TARGET or leave target_id out", o.GetPid())
	}
	return nil
}

// pidMode is the mode that the container asks for, or its pod's if it asks for none.
func (j namespaceJoins) pidMode() (runtimeapi.NamespaceMode, error) {
	pod := j.pod.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid()
	o := j.asked
	if o == nil {
		return pod, nil
	}
	mode := o.GetPid()
	switch {
	case mode == modeNode && pod != modeNode:
		return 0, invalid("namespace_options.pid: NODE needs a pod sandbox of pid mode NODE")
	case mode == modePod && pod == modeContainer:
		return 0, invalid("namespace_options.pid: POD needs a pod sandbox of pid mode POD, this one has CONTAINER: use CONTAINER here or POD there")
	case mode == modePod:
		return pod, nil // the namespace of a pod in mode NODE is the node's
	}
	return mode, nil
}

// pidNamespace is nil if the container uses the node's PID namespace.
func (j namespaceJoins) pidNamespace() (*specs.LinuxNamespace, error) {
	mode, err := j.pidMode()
	if err != nil {
		return nil, err
	}
	ns := specs.LinuxNamespace{Type: specs.PIDNamespace}
	switch mode {
	case modeNode:
		return nil, nil
	case modePod:
		ns.Path = nsPath(j.pod.PID, "pid")
	case modeTarget:
		if j.targetPID <= 0 {
			return nil, invalid("namespace_options.target_id: container %s is not a running container of this pod", clip(j.asked.GetTargetId()))
		}
		ns.Path = nsPath(j.targetPID, "pid")
	}
	return &ns, nil
}
