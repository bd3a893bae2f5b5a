package oci

import (
	"errors"
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
			return nil, invalid("security_context.apparmor.localhost_ref: %s is no profile name", clip(ref))
		}
		p = &runtimeapi.SecurityProfile{ProfileType: profileLocalhost, LocalhostRef: ref}
	}
	return p, err
}

// appArmorName is the name of the profile that p asks for, "" for unconfined; nil is
// the default, as the CRI asks. What can't be applied is refused: where the host has no
// AppArmor only a profile that was named, where it has one whose default could not be
// loaded the default too.
func appArmorName(p *runtimeapi.SecurityProfile, h Host) (string, error) {
	switch {
	case p.GetProfileType() == profileLocalhost && !h.AppArmor:
		return "", unsupported("security_context.apparmor: AppArmor is not enabled: use RuntimeDefault or Unconfined")
	case p.GetProfileType() == profileLocalhost:
		return p.GetLocalhostRef(), nil
	case p.GetProfileType() != profileDefault || !h.AppArmor:
		return "", nil
	case h.AppArmorDefault == "":
		return "", unsupported("security_context.apparmor: the profile of RuntimeDefault is not loaded: see berthd's log, install apparmor_parser and restart berthd; or ask for Unconfined")
	}
	return h.AppArmorDefault, nil
}

// apparmor: privileged containers go without the default, but not without a profile
// that was chosen for them.
func (b *builder) apparmor() error {
	p, err := appArmorProfile(b.sc)
	if err != nil || b.privileged() && p.GetProfileType() != profileLocalhost {
		return err
	}
	b.spec.Process.ApparmorProfile, err = appArmorName(p, b.host)
	return err
}

// CheckAppArmor tells whether the Localhost profile a security context names is
// loaded in the kernel. The error wraps [ErrInvalid] or [ErrUnsupported].
func CheckAppArmor(sc *runtimeapi.LinuxContainerSecurityContext, h Host) error {
	p, err := appArmorProfile(sc)
	if err != nil || p.GetProfileType() != profileLocalhost || !h.AppArmor {
		return err // without AppArmor, Spec refuses it
	}
	loaded, err := apparmor.IsLoaded(p.GetLocalhostRef())
	if err != nil {
		return fmt.Errorf("looking for AppArmor profile: %w", err)
	}
	if !loaded {
		return invalid("security_context.apparmor: profile %s is not loaded: load it with apparmor_parser", clip(p.GetLocalhostRef()))
	}
	return nil
}

// LoadAppArmorDefault loads the profile RuntimeDefault means and notes it in h.
// It does nothing without AppArmor. After an error, containers that are to have the
// profile are refused. Without apparmor_parser a profile of its name will do that was
// loaded before, as the host's boot may have done. It runs apparmor_parser, so call
// it once, when the daemon starts.
func LoadAppArmorDefault(h *Host) error {
	if !h.AppArmor {
		return nil
	}
	err := parseAppArmor(defaultProfile(ownAppArmorLabel(), profileFileExists))
	if errors.Is(err, exec.ErrNotFound) {
		if loaded, lookErr := apparmor.IsLoaded(defaultAppArmor); lookErr == nil && loaded {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("AppArmor is enabled but profile %s can't be loaded: %w", defaultAppArmor, err)
	}
	h.AppArmorDefault = defaultAppArmor
	return nil
}
