package nri

import (
	"encoding/json"
	"maps"
	"strconv"

	"github.com/containerd/nri/pkg/api"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
)

// podOf describes a pod as NRI does.
func podOf(st *sandbox.PodStatus) *api.PodSandbox {
	meta, linux := st.Config.GetMetadata(), st.Config.GetLinux()
	return &api.PodSandbox{
		Id: st.ID, Name: meta.GetName(), Uid: meta.GetUid(), Namespace: meta.GetNamespace(),
		// Copies: the library adds to the maps of a container, and reads these while it waits.
		Labels: maps.Clone(st.Config.GetLabels()), Annotations: maps.Clone(st.Config.GetAnnotations()),
		RuntimeHandler: st.Handler, Pid: uint32(st.PID), Ips: st.IPs,
		Linux: &api.LinuxPodSandbox{
			PodOverhead: resourcesOf(linux.GetOverhead()), PodResources: resourcesOf(linux.GetResources()),
			CgroupParent: linux.GetCgroupParent(), Namespaces: namespacesOf(st),
		},
	}
}

// namespacesOf are the namespaces that the containers of a pod share.
func namespacesOf(st *sandbox.PodStatus) []*api.LinuxNamespace {
	var out []*api.LinuxNamespace
	if st.NetNS != "" {
		out = append(out, &api.LinuxNamespace{Type: "network", Path: st.NetNS})
	}
	if st.PID == 0 {
		return out
	}
	options := st.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	proc := "/proc/" + strconv.Itoa(st.PID) + "/ns/"
	out = append(out, &api.LinuxNamespace{Type: "uts", Path: proc + "uts"})
	if options.GetIpc() != runtimeapi.NamespaceMode_NODE {
		out = append(out, &api.LinuxNamespace{Type: "ipc", Path: proc + "ipc"})
	}
	if options.GetPid() == runtimeapi.NamespaceMode_POD {
		out = append(out, &api.LinuxNamespace{Type: "pid", Path: proc + "pid"})
	}
	if u := options.GetUsernsOptions(); u != nil && u.GetMode() == runtimeapi.NamespaceMode_POD {
		out = append(out, &api.LinuxNamespace{Type: "user", Path: proc + "user"})
	}
	return out
}

var states = map[runtimeapi.ContainerState]api.ContainerState{
	runtimeapi.ContainerState_CONTAINER_CREATED: api.ContainerState_CONTAINER_CREATED,
	runtimeapi.ContainerState_CONTAINER_RUNNING: api.ContainerState_CONTAINER_RUNNING,
	runtimeapi.ContainerState_CONTAINER_EXITED:  api.ContainerState_CONTAINER_STOPPED,
}

// containerOf describes a container as NRI does. spec is its runtime-spec, nil for the one
// that it was created from.
func containerOf(st *sandbox.ContainerStatus, spec *specs.Spec) *api.Container {
	if spec == nil {
		spec = &specs.Spec{}
		_ = json.Unmarshal(st.Spec, spec) // a container that has none yet is described without
	}
	process, linux := made(&spec.Process), made(&spec.Linux)
	out := &api.Container{
		Id: st.ID, PodSandboxId: st.PodID, Name: st.Config.GetMetadata().GetName(), State: states[st.State],
		Labels: maps.Clone(st.Config.GetLabels()), Annotations: annotationsOf(st, spec),
		Args: process.Args, Env: process.Env, Mounts: api.FromOCIMounts(spec.Mounts), Hooks: api.FromOCIHooks(spec.Hooks),
		Linux: linuxOf(st, process, linux), Pid: uint32(st.PID), Rlimits: rlimitsOf(process.Rlimits),
		StatusReason: st.Reason, StatusMessage: st.Message, ExitCode: st.ExitCode,
		User:  &api.User{Uid: process.User.UID, Gid: process.User.GID, AdditionalGids: process.User.AdditionalGids},
		Image: &api.Image{Name: st.Config.GetImage().GetUserSpecifiedImage(), ConfigDigest: st.ImageID},
	}
	if st.ImageRef != st.ImageID {
		out.Image.Digest = st.ImageRef
	}
	if out.Image.Name == "" {
		out.Image.Name = st.Config.GetImage().GetImage()
	}
	for _, d := range st.Config.GetCDIDevices() {
		out.CDIDevices = append(out.CDIDevices, &api.CDIDevice{Name: d.GetName()})
	}
	times(st, out)
	return out
}

func times(st *sandbox.ContainerStatus, out *api.Container) {
	if !st.CreatedAt.IsZero() {
		out.CreatedAt = st.CreatedAt.UnixNano()
	}
	if !st.StartedAt.IsZero() {
		out.StartedAt = st.StartedAt.UnixNano()
	}
	if !st.FinishedAt.IsZero() {
		out.FinishedAt = st.FinishedAt.UnixNano()
	}
}

// annotationsOf are those of the spec and those of the client, which win.
func annotationsOf(st *sandbox.ContainerStatus, spec *specs.Spec) map[string]string {
	out := maps.Clone(spec.Annotations)
	if out == nil {
		out = make(map[string]string)
	}
	maps.Copy(out, st.Config.GetAnnotations())
	return out
}

func linuxOf(st *sandbox.ContainerStatus, process *specs.Process, linux *specs.Linux) *api.LinuxContainer {
	out := &api.LinuxContainer{
		Namespaces: api.FromOCILinuxNamespaces(linux.Namespaces), Devices: api.FromOCILinuxDevices(linux.Devices),
		Resources: api.FromOCILinuxResources(linux.Resources, nil), OomScoreAdj: api.Int(process.OOMScoreAdj),
		CgroupsPath: linux.CgroupsPath, IoPriority: api.FromOCILinuxIOPriority(process.IOPriority),
		Sysctl: maps.Clone(linux.Sysctl), NetDevices: api.FromOCILinuxNetDevices(linux.NetDevices),
	}
	if process.Scheduler != nil {
		out.Scheduler = api.FromOCILinuxScheduler(process.Scheduler)
	}
	if linux.Seccomp != nil {
		out.SeccompPolicy = api.FromOCILinuxSeccomp(linux.Seccomp)
	}
	if r := linux.IntelRdt; r != nil {
		out.Rdt = &api.LinuxRdt{ClosId: api.String(r.ClosID), Schemata: api.RepeatedString(r.Schemata), EnableMonitoring: api.Bool(r.EnableMonitoring)}
	}
	if p := st.Config.GetLinux().GetSecurityContext().GetSeccomp(); p != nil {
		out.SeccompProfile = &api.SecurityProfile{ProfileType: api.SecurityProfile_ProfileType(p.GetProfileType()), LocalhostRef: p.GetLocalhostRef()}
	}
	return out
}

func rlimitsOf(all []specs.POSIXRlimit) []*api.POSIXRlimit {
	var out []*api.POSIXRlimit
	for _, l := range all {
		out = append(out, &api.POSIXRlimit{Type: l.Type, Hard: l.Hard, Soft: l.Soft})
	}
	return out
}

// resourcesOf translates limits; those that are zero are left out.
func resourcesOf(r *runtimeapi.LinuxContainerResources) *api.LinuxResources {
	if r == nil {
		return nil
	}
	out := &api.LinuxResources{
		Cpu:     &api.LinuxCPU{Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems()},
		Memory:  &api.LinuxMemory{},
		Unified: maps.Clone(r.GetUnified()),
	}
	if n := r.GetCpuShares(); n != 0 {
		out.Cpu.Shares = api.UInt64(uint64(n))
	}
	if n := r.GetCpuQuota(); n != 0 {
		out.Cpu.Quota = api.Int64(n)
	}
	if n := r.GetCpuPeriod(); n != 0 {
		out.Cpu.Period = api.UInt64(uint64(n))
	}
	if n := r.GetMemoryLimitInBytes(); n != 0 {
		out.Memory.Limit = api.Int64(n)
	}
	if n := r.GetMemorySwapLimitInBytes(); n != 0 {
		out.Memory.Swap = api.Int64(n)
	}
	for _, l := range r.GetHugepageLimits() {
		out.HugepageLimits = append(out.HugepageLimits, &api.HugepageLimit{PageSize: l.GetPageSize(), Limit: l.GetLimit()})
	}
	return out
}
