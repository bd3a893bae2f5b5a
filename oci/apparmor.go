package oci

import (
	"fmt"
	"os/exec"
	"strings"

	"github.com/moby/profiles/apparmor"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultAppArmor is the name under which RuntimeDefault is loaded.
const defaultAppArmor = "berth-default"

func appArmorProfile(sc *runtimeapi.LinuxContainerSecurityContext) (*runtimeapi.SecurityProfile, error) {
	p, err := securityProfile(sc.GetApparmor(), sc.GetApparmorProfile())
	if p != nil && p.GetProfileType() == profileLocalhost {
		ref := strings.TrimPrefix(p.GetLocalhostRef(), "localhost/") // kubelets before 1.30 kept it
		if ref == "" || strings.ContainsAny(ref, " \t\n\x00") {
			return nil, fmt.Errorf("%w: security_context.apparmor.localhost_ref: %s is no profile name", ErrInvalid, clip(ref))
		}
		p = &runtimeapi.SecurityProfile{ProfileType: profileLocalhost, LocalhostRef: ref}
	}
	return p, err
}

// apparmor applies the default where nothing is said, as the CRI asks; where the
// host has no AppArmor only an explicit profile is missed.
func (b *builder) apparmor() error {
	p, err := appArmorProfile(b.sc)
	if err != nil || b.privileged() {
		return err
	}
	switch {
	case p.GetProfileType() == profileLocalhost && !b.host.AppArmor:
		return fmt.Errorf("%w: security_context.apparmor: AppArmor is not enabled: use RuntimeDefault or Unconfined", ErrUnsupported)
	case p.GetProfileType() == profileLocalhost:
		b.spec.Process.ApparmorProfile = p.GetLocalhostRef()
	case p.GetProfileType() == profileDefault && b.host.AppArmor: // nil too
		b.spec.Process.ApparmorProfile = b.host.AppArmorDefault
	}
	return nil
}

// selinux applies the options where the host has SELinux and ignores them
// elsewhere, as the kubelet sends them whenever the pod has them. A label needs
// at least a type to be one.
func (b *builder) selinux() error {
	o := b.sc.GetSelinuxOptions()
	if o == nil || !b.host.SELinux || b.privileged() {
		return nil
	}
	part := func(given, otherwise string) string {
		if given == "" {
			return otherwise
		}
		return given
	}
	user, level := part(o.GetUser(), "system_u"), part(o.GetLevel(), "s0")
	for _, s := range []string{user, o.GetRole(), o.GetType()} {
		if strings.ContainsAny(s, ": \t\n\x00") {
			return fmt.Errorf("%w: security_context.selinux_options: %s is not part of a label", ErrInvalid, clip(s))
		}
	}
	b.spec.Process.SelinuxLabel = strings.Join([]string{user, part(o.GetRole(), "system_r"), part(o.GetType(), "container_t"), level}, ":")
	b.spec.Linux.MountLabel = strings.Join([]string{user, "object_r", "container_file_t", level}, ":")
	return nil
}

// CheckAppArmor tells whether the Localhost profile a security context names is
// loaded in the kernel. The error wraps [ErrInvalid] or [ErrUnsupported].
func CheckAppArmor(sc *runtimeapi.LinuxContainerSecurityContext, h Host) error {
	p, err := appArmorProfile(sc)
	if err != nil || p.GetProfileType() != profileLocalhost || sc.GetPrivileged() || !h.AppArmor {
		return err // without AppArmor, Spec refuses it
	}
	loaded, err := apparmor.IsLoaded(p.GetLocalhostRef())
	if err != nil {
		return fmt.Errorf("looking for AppArmor profile: %w", err)
	}
	if !loaded {
		return fmt.Errorf("%w: security_context.apparmor: profile %s is not loaded: load it with apparmor_parser", ErrInvalid, clip(p.GetLocalhostRef()))
	}
	return nil
}

// LoadAppArmorDefault loads the profile RuntimeDefault means and notes it in h.
// It does nothing without AppArmor. After an error containers run without it.
// It runs apparmor_parser, so call it once, when the daemon starts.
func LoadAppArmorDefault(h *Host) error {
	if !h.AppArmor {
		return nil
	}
	if _, err := exec.LookPath("apparmor_parser"); err != nil {
		return fmt.Errorf("AppArmor is enabled but its default profile can't be loaded: install the apparmor package: %w", err)
	}
	if err := apparmor.InstallDefault(defaultAppArmor); err != nil {
		return fmt.Errorf("loading AppArmor profile %s: %w", defaultAppArmor, err)
	}
	h.AppArmorDefault = defaultAppArmor
	return nil
}
