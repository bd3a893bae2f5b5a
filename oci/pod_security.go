package oci

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/shimapi"
)

// PodSecurity is what the security context of a pod sandbox means for its pause
// process. The rest of the context means nothing there: pause has a read-only root,
// no capabilities and a seccomp filter narrower than any profile in every case.
type PodSecurity struct {
	User     shimapi.PauseUser
	AppArmor string // "" is unconfined
}

// PodSecurityOf reads the security context of a pod sandbox. The error wraps
// [ErrInvalid] or [ErrUnsupported] and names the field that can't be honoured.
func PodSecurityOf(config *runtimeapi.PodSandboxConfig, h Host) (PodSecurity, error) {
	sc := config.GetLinux().GetSecurityContext()
	ns, err := NamespacesOf(config)
	if err != nil {
		return PodSecurity{}, err
	}
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil {
		return PodSecurity{}, invalid("security_context.run_as_group is set without run_as_user: set both")
	}
	var s PodSecurity
	if s.User.UID, err = pauseOwner("run_as_user", sc.GetRunAsUser(), ns.UIDMappings); err != nil {
		return s, err
	}
	if s.User.GID, err = pauseOwner("run_as_group", sc.GetRunAsGroup(), ns.GIDMappings); err != nil {
		return s, err
	}
	if s.User.Groups, err = pauseGroups(sc, ns.GIDMappings); err != nil {
		return s, err
	}
	s.AppArmor, err = pauseAppArmor(sc, h)
	return s, err
}

// pauseOwner is the ID that was asked for, else an unprivileged one. A user
// namespace that does not map that one has its root, which is nobody on the host.
func pauseOwner(field string, asked *runtimeapi.Int64Value, maps []specs.LinuxIDMapping) (uint32, error) {
	if asked == nil {
		if len(maps) > 0 && !isMapped(shimapi.PauseID, maps) {
			return 0, nil
		}
		return shimapi.PauseID, nil
	}
	return pauseIDOf(field, asked.GetValue(), maps)
}

func pauseIDOf(field string, n int64, maps []specs.LinuxIDMapping) (uint32, error) {
	id, err := checkID(field, n)
	if err != nil {
		return 0, err
	}
	if len(maps) > 0 && !isMapped(id, maps) {
		return 0, invalid("security_context.%s: %d is not mapped by the pod's user namespace: use an ID below %d", field, id, maps[0].Size)
	}
	return id, nil
}

func isMapped(id uint32, maps []specs.LinuxIDMapping) bool {
	for _, m := range maps {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return true
		}
	}
	return false
}

// pauseGroups: with Merge and Strict alike, since pause has no image whose groups
// could be added.
func pauseGroups(sc *runtimeapi.LinuxSandboxSecurityContext, maps []specs.LinuxIDMapping) ([]uint32, error) {
	if _, ok := runtimeapi.SupplementalGroupsPolicy_name[int32(sc.GetSupplementalGroupsPolicy())]; !ok {
		return nil, invalid("security_context.supplemental_groups_policy: %d is neither Merge nor Strict", sc.GetSupplementalGroupsPolicy())
	}
	if n := len(sc.GetSupplementalGroups()); n > shimapi.MaxPauseGroups {
		return nil, invalid("security_context.supplemental_groups: %d groups, a pod sandbox can have %d", n, shimapi.MaxPauseGroups)
	}
	var groups []uint32
	for _, g := range sc.GetSupplementalGroups() {
		id, err := pauseIDOf("supplemental_groups", g, maps)
		if err != nil {
			return nil, err
		}
		groups = append(groups, id)
	}
	return groups, nil
}

// pauseAppArmor is the profile of pause. A pod that names none gets its pause without
// the default where that could not be loaded: its containers may be those that mend the
// node, and pause runs no code but berth's.
func pauseAppArmor(sc *runtimeapi.LinuxSandboxSecurityContext, h Host) (string, error) {
	p, err := appArmorProfile(profilesOf(sc))
	if err != nil || p == nil && h.AppArmorDefault == "" {
		return "", err
	}
	return appArmorName(p, h)
}

// profilesOf are the pod's profiles as a container would name them, for the checks
// that both share.
func profilesOf(sc *runtimeapi.LinuxSandboxSecurityContext) *runtimeapi.LinuxContainerSecurityContext {
	return &runtimeapi.LinuxContainerSecurityContext{
		Seccomp: sc.GetSeccomp(), Apparmor: sc.GetApparmor(),
		SeccompProfilePath: sc.GetSeccompProfilePath(),
	}
}

// CheckPodProfiles tells whether the Localhost profiles that a pod sandbox names are
// on this machine. Its seccomp profile is not put on pause, see [PodSecurity], but
// one that is missing or broken is told here and not by a container later.
func CheckPodProfiles(sc *runtimeapi.LinuxSandboxSecurityContext, h Host) error {
	if err := CheckAppArmor(profilesOf(sc), h); err != nil {
		return err
	}
	_, err := LoadSeccomp(profilesOf(sc), h)
	return err
}
