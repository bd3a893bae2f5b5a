package oci

import (
	"maps"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/shimapi"
)

// SandboxProcess is what the container of a pod sandbox runs, which stands for the pod in
// runtimes that have a machine or a kernel of their own.
type SandboxProcess struct {
	Args, Env []string
	Cwd       string
	Rootfs    string // absolute
	User      shimapi.PauseUser
	Hostname  string
	// OOMScoreAdj is that of the pause process.
	OOMScoreAdj int
}

// SandboxSpec is the spec of a pod's sandbox container. It is a pure function. The container
// joins the namespaces that the pause process holds, has no capabilities and can't write.
func SandboxSpec(p Pod, s SandboxProcess, h Host) (*specs.Spec, error) {
	ns, err := NamespacesOf(p.Config)
	if err != nil {
		return nil, err
	}
	namespaces, err := namespaceJoins{pod: p, ns: ns}.list(h.CgroupV2)
	if err != nil {
		return nil, err
	}
	cgroups, err := CgroupsPath(p.Config.GetLinux().GetCgroupParent(), p.ID, h)
	if err != nil {
		return nil, err
	}
	shares := uint64(2) // the least: it sleeps
	spec := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: s.Rootfs, Readonly: true},
		Process: &specs.Process{
			Args: s.Args, Env: s.Env, Cwd: s.Cwd, NoNewPrivileges: true, OOMScoreAdj: &s.OOMScoreAdj,
			User:         specs.User{UID: s.User.UID, GID: s.User.GID, AdditionalGids: s.User.Groups},
			Capabilities: &specs.LinuxCapabilities{},
		},
		Mounts:      sandboxMounts(p, ns),
		Annotations: sandboxAnnotations(p),
		Linux: &specs.Linux{
			CgroupsPath: cgroups, Namespaces: namespaces,
			MaskedPaths: defaultMaskedPaths, ReadonlyPaths: defaultReadonlyPaths,
			Resources: &specs.LinuxResources{
				CPU:     &specs.LinuxCPU{Shares: &shares},
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: anyAccess}},
			},
		},
	}
	if ns.UTS {
		spec.Hostname = s.Hostname
	}
	return spec, nil
}

func sandboxMounts(p Pod, ns PodNamespaces) []specs.Mount {
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
	}
	if p.ShmPath != "" {
		list = append(list, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: p.ShmPath, Options: []string{"rbind", "ro", "nosuid", "noexec", "nodev"}})
	}
	if ns.Net && !ns.User() {
		list = append(list, specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}})
	}
	return list
}

// sandboxAnnotations are those that shims of containerd know a pod by, the size that was
// asked for it, and the allowed ones of the pod.
func sandboxAnnotations(p Pod) map[string]string {
	meta, linux := p.Config.GetMetadata(), p.Config.GetLinux()
	out := map[string]string{
		"io.kubernetes.cri.container-type":        "sandbox",
		"io.kubernetes.cri.sandbox-id":            p.ID,
		"io.kubernetes.cri.sandbox-name":          meta.GetName(),
		"io.kubernetes.cri.sandbox-namespace":     meta.GetNamespace(),
		"io.kubernetes.cri.sandbox-uid":           meta.GetUid(),
		"io.kubernetes.cri.sandbox-log-directory": p.Config.GetLogDirectory(),
	}
	if r := linux.GetResources(); r != nil {
		out["io.kubernetes.cri.sandbox-cpu-period"] = strconv.FormatInt(r.GetCpuPeriod(), 10)
		out["io.kubernetes.cri.sandbox-cpu-quota"] = strconv.FormatInt(r.GetCpuQuota(), 10)
		out["io.kubernetes.cri.sandbox-cpu-shares"] = strconv.FormatInt(r.GetCpuShares(), 10)
		out["io.kubernetes.cri.sandbox-memory"] = strconv.FormatInt(r.GetMemoryLimitInBytes(), 10)
	}
	addAllowed(out, p.Allowed, p.Config.GetAnnotations())
	return out
}

// addAllowed adds the annotations whose keys match one of the patterns, see [Pod.Allowed].
// None takes the place of one that is there.
func addAllowed(to map[string]string, patterns []string, all map[string]string) {
	own := maps.Clone(to)
	for key, value := range all {
		for _, p := range patterns {
			prefix, open := strings.CutSuffix(p, "*")
			if _, taken := own[key]; !taken && (key == p || open && strings.HasPrefix(key, prefix)) {
				to[key] = value
			}
		}
	}
}
