package cri

import (
	"path/filepath"
	"regexp"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// checkContainerConfig looks at a container's configuration alone and beside
// its pod's.
func checkContainerConfig(c *runtimeapi.ContainerConfig, pod *runtimeapi.PodSandboxConfig) error {
	if c == nil {
		return invalid("config is missing; give the container's configuration")
	}
	if c.GetMetadata().GetName() == "" {
		return invalid("config.metadata.name is empty; give the container's name")
	}
	if c.GetImage().GetImage() == "" {
		return invalid("config.image.image is empty; give the image's ID or name")
	}
	err := firstError(
		checkName("config.metadata.name", c.GetMetadata().GetName()),
		checkImageName(c.GetImage()),
		checkPath("config.working_dir", c.GetWorkingDir()),
		checkPairs("config.labels", c.GetLabels()),
		checkPairs("config.annotations", c.GetAnnotations()),
		checkLogPath(c.GetLogPath()),
		checkStrings("config.command", c.GetCommand()),
		checkStrings("config.args", c.GetArgs()),
		checkEnvs(c.GetEnvs()),
		checkStopSignal(c.GetStopSignal()),
		checkResources(c.GetLinux().GetResources()),
		checkSecurity(c.GetLinux().GetSecurityContext()),
		checkSameUsers(
			c.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions(),
			pod.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions()),
	)
	if err != nil {
		return err
	}
	for _, m := range c.GetMounts() {
		if err := checkMount(m); err != nil {
			return err
		}
	}
	for _, d := range c.GetDevices() {
		if err := checkDevice(d); err != nil {
			return err
		}
	}
	return nil
}

// checkLogPath: joined to the pod's log directory, which it must not leave.
func checkLogPath(p string) error {
	if p == "" {
		return nil
	}
	if len(p) > maxPath || strings.ContainsAny(p, "\x00\n") || !filepath.IsLocal(p) || filepath.Clean(p) == "." {
		return invalid("config.log_path is %q; give a file's path relative to the pod's log_directory and inside it", short(p))
	}
	return nil
}

func checkStrings(field string, list []string) error {
	for _, s := range list {
		if strings.ContainsRune(s, 0) {
			return invalid("%s contains a zero byte; the kernel can't pass it to a program", field)
		}
	}
	return nil
}

func checkEnvs(envs []*runtimeapi.KeyValue) error {
	for _, e := range envs {
		if e.GetKey() == "" || strings.ContainsAny(e.GetKey(), "=\x00") {
			return invalid("config.envs: %q is not a variable's name; it must not be empty nor contain \"=\"", short(e.GetKey()))
		}
		if strings.ContainsRune(string(e.GetValue()), 0) {
			return invalid("config.envs: the value of %s contains a zero byte", short(e.GetKey()))
		}
	}
	return nil
}

func checkStopSignal(s runtimeapi.Signal) error {
	if _, ok := runtimeapi.Signal_name[int32(s)]; !ok {
		return invalid("config.stop_signal %d is unknown; use one of the enum Signal (its numbers are not the kernel's)", s)
	}
	return nil
}

// checkResources refuses what no kernel takes; limits of this host are the domain's.
func checkResources(r *runtimeapi.LinuxContainerResources) error {
	switch {
	case r.GetCpuPeriod() < 0:
		return invalid("cpu_period is %d; give microseconds, or 0 to leave it", r.GetCpuPeriod())
	case r.GetCpuQuota() < -1:
		return invalid("cpu_quota is %d; give microseconds, -1 for none, or 0 to leave it", r.GetCpuQuota())
	case r.GetCpuShares() != 0 && (r.GetCpuShares() < 2 || r.GetCpuShares() > 262144):
		return invalid("cpu_shares is %d; give 2 to 262144, or 0 to leave it", r.GetCpuShares())
	case r.GetMemoryLimitInBytes() < -1:
		return invalid("memory_limit_in_bytes is %d; give bytes, -1 for none, or 0 to leave it", r.GetMemoryLimitInBytes())
	case r.GetMemorySwapLimitInBytes() < -1:
		return invalid("memory_swap_limit_in_bytes is %d; give bytes, -1 for none, or 0 to leave it", r.GetMemorySwapLimitInBytes())
	case r.GetOomScoreAdj() < -1000 || r.GetOomScoreAdj() > 1000:
		return invalid("oom_score_adj is %d; the kernel takes -1000 to 1000", r.GetOomScoreAdj())
	}
	for _, l := range r.GetHugepageLimits() {
		// It becomes a part of a file's name.
		if !pageSize.MatchString(l.GetPageSize()) {
			return invalid("hugepage_limits: %q is not a page size; give one such as 2MB", short(l.GetPageSize()))
		}
	}
	return nil
}

// pageSize is how the kernel writes one in the names of cgroup files.
var pageSize = regexp.MustCompile(`^[1-9][0-9]{0,9}[KMG]B$`)

func checkSecurity(sc *runtimeapi.LinuxContainerSecurityContext) error {
	ns := sc.GetNamespaceOptions()
	switch {
	// The kubelet sets both a user and the image's user name; a group alone is an error of the caller.
	case sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil && sc.GetRunAsUsername() == "":
		return invalid("security_context.run_as_group is set without run_as_user or run_as_username; set one of them")
	case len(sc.GetRunAsUsername()) > maxName:
		return invalid("security_context.run_as_username is %d bytes long; use at most %d", len(sc.GetRunAsUsername()), maxName)
	case ns.GetPid() == runtimeapi.NamespaceMode_TARGET && ns.GetTargetId() == "":
		return invalid("namespace_options.pid is TARGET without target_id; name the container whose processes are to be seen")
	case ns.GetPid() != runtimeapi.NamespaceMode_TARGET && ns.GetTargetId() != "":
		return invalid("namespace_options.target_id is set while pid is %s; set pid to TARGET or leave target_id out", ns.GetPid())
	}
	return firstError(
		podOrNode("network", ns.GetNetwork()),
		podOrNode("ipc", ns.GetIpc()),
		checkProfile("seccomp", sc.GetSeccomp()),
		checkProfile("apparmor", sc.GetApparmor()),
	)
}

func podOrNode(what string, m runtimeapi.NamespaceMode) error {
	if m != runtimeapi.NamespaceMode_POD && m != runtimeapi.NamespaceMode_NODE {
		return invalid("namespace_options.%s is %s; use POD or NODE, the same as the pod sandbox", what, m)
	}
	return nil
}

func checkProfile(what string, p *runtimeapi.SecurityProfile) error {
	if _, known := runtimeapi.SecurityProfile_ProfileType_name[int32(p.GetProfileType())]; !known {
		return invalid("%s profile has the unknown type %d; use RuntimeDefault, Unconfined or Localhost", what, p.GetProfileType())
	}
	local := p.GetProfileType() == runtimeapi.SecurityProfile_Localhost
	if local && p.GetLocalhostRef() == "" {
		return invalid("%s profile is Localhost without localhost_ref; name the profile", what)
	}
	if !local && p.GetLocalhostRef() != "" {
		return invalid("%s profile has localhost_ref while its type is %s; set the type to Localhost", what, p.GetProfileType())
	}
	return nil
}

// checkSameUsers: a container without users of its own takes the pod's. Other
// contradictions between a container and its pod are the domain's to find.
func checkSameUsers(c, pod *runtimeapi.UserNamespace) error {
	if c == nil {
		return nil
	}
	own := func(u *runtimeapi.UserNamespace) bool {
		return u != nil && u.GetMode() == runtimeapi.NamespaceMode_POD
	}
	if own(c) != own(pod) || own(c) && !(sameMaps(c.GetUids(), pod.GetUids()) && sameMaps(c.GetGids(), pod.GetGids())) {
		return invalid("namespace_options.userns_options differ from the pod sandbox's; make them equal")
	}
	return nil
}

func sameMaps(a, b []*runtimeapi.IDMapping) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].GetHostId() != b[i].GetHostId() || a[i].GetContainerId() != b[i].GetContainerId() || a[i].GetLength() != b[i].GetLength() {
			return false
		}
	}
	return true
}

func checkMount(m *runtimeapi.Mount) error {
	to := m.GetContainerPath()
	if to == "" {
		return invalid("a mount has no container_path; say where it goes")
	}
	return firstError(
		checkPath("mounts: container_path", to),
		checkPath("mounts: host_path of "+short(to), m.GetHostPath()),
		checkMountSource(m),
		checkMountFlags(m),
	)
}

func checkMountSource(m *runtimeapi.Mount) error {
	to, sub := short(m.GetContainerPath()), m.GetImageSubPath()
	if err := checkImageName(m.GetImage()); err != nil {
		return err
	}
	if m.GetImage().GetImage() == "" {
		switch {
		case m.GetHostPath() == "":
			return invalid("mount %s has neither host_path nor image; say what is mounted", to)
		case sub != "":
			return invalid("mount %s has image_sub_path without an image", to)
		}
		return nil
	}
	switch {
	case m.GetHostPath() != "":
		return invalid("mount %s has both image and host_path; give one of them", to)
	case sub != "" && !filepath.IsLocal(sub):
		return invalid("mount %s: image_sub_path %q must be relative and stay in the image", to, short(sub))
	}
	return nil
}

func checkMountFlags(m *runtimeapi.Mount) error {
	to := short(m.GetContainerPath())
	if _, known := runtimeapi.MountPropagation_name[int32(m.GetPropagation())]; !known {
		return invalid("mount %s: propagation %d is unknown", to, m.GetPropagation())
	}
	if !m.GetRecursiveReadOnly() {
		return nil
	}
	switch {
	case !m.GetReadonly():
		return invalid("mount %s is recursive_read_only and not readonly; set both", to)
	case m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		return invalid("mount %s is recursive_read_only with propagation %s; use PROPAGATION_PRIVATE", to, m.GetPropagation())
	}
	return nil
}

func checkDevice(d *runtimeapi.Device) error {
	if d.GetHostPath() == "" {
		return invalid("a device has no host_path; say which device of the host it is")
	}
	if strings.Trim(d.GetPermissions(), "rwm") != "" {
		return invalid("device %s: permissions %q; use letters of \"rwm\"", short(d.GetHostPath()), short(d.GetPermissions()))
	}
	return firstError(
		checkPath("devices: host_path", d.GetHostPath()),
		checkPath("devices: container_path", d.GetContainerPath()),
	)
}

func checkImageName(spec *runtimeapi.ImageSpec) error {
	if len(spec.GetImage()) > maxName {
		return invalid("image is %d bytes long; a reference has at most %d", len(spec.GetImage()), maxName)
	}
	for _, s := range []string{spec.GetUserSpecifiedImage(), spec.GetRuntimeHandler(), spec.GetImageRef()} {
		if len(s) > maxName {
			return invalid("image: user_specified_image, runtime_handler or image_ref is %d bytes long; use at most %d", len(s), maxName)
		}
	}
	return checkPairs("image.annotations", spec.GetAnnotations())
}

// imageName is the reference a request is about.
func imageName(spec *runtimeapi.ImageSpec) (string, error) {
	if spec.GetImage() == "" {
		return "", invalid("image.image is empty; give a name, a digest or an ID")
	}
	return spec.GetImage(), checkImageName(spec)
}
