package oci

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	profileDefault    = runtimeapi.SecurityProfile_RuntimeDefault
	profileUnconfined = runtimeapi.SecurityProfile_Unconfined
	profileLocalhost  = runtimeapi.SecurityProfile_Localhost
)

// securityProfile reads the field, or the string that was used before it. Nil
// means that nothing was said.
func securityProfile(field *runtimeapi.SecurityProfile, old string) (*runtimeapi.SecurityProfile, error) {
	if field != nil {
		return field, checkProfile(field)
	}
	switch ref, local := strings.CutPrefix(old, "localhost/"); {
	case old == "":
		return nil, nil
	case local:
		return &runtimeapi.SecurityProfile{ProfileType: profileLocalhost, LocalhostRef: ref}, nil
	case old == "runtime/default" || old == "docker/default":
		return &runtimeapi.SecurityProfile{ProfileType: profileDefault}, nil
	case old == "unconfined":
		return &runtimeapi.SecurityProfile{ProfileType: profileUnconfined}, nil
	}
	return nil, invalid("security profile %s: give runtime/default, unconfined or localhost/NAME", clip(old))
}

func checkProfile(p *runtimeapi.SecurityProfile) error {
	_, known := runtimeapi.SecurityProfile_ProfileType_name[int32(p.GetProfileType())]
	local := p.GetProfileType() == profileLocalhost
	switch {
	case !known:
		return invalid("a security profile has the unknown type %d: use RuntimeDefault, Unconfined or Localhost", p.GetProfileType())
	case local && p.GetLocalhostRef() == "":
		return invalid("a security profile is Localhost without localhost_ref: name the profile")
	case !local && p.GetLocalhostRef() != "":
		return invalid("a security profile has localhost_ref while its type is %s: set the type to Localhost", p.GetProfileType())
	}
	return nil
}

func seccompProfile(sc *runtimeapi.LinuxContainerSecurityContext) (*runtimeapi.SecurityProfile, error) {
	return securityProfile(sc.GetSeccomp(), sc.GetSeccompProfilePath())
}

// seccomp takes no profile to mean unconfined, as the CRI defines it. It is the kubelet's
// --seccomp-default that asks for RuntimeDefault instead.
func (b *builder) seccomp() error {
	p, err := seccompProfile(b.sc)
	if err != nil {
		return err
	}
	if p == nil || p.GetProfileType() == profileUnconfined || b.privileged() {
		return nil
	}
	if !b.host.Seccomp {
		return unsupported("security_context.seccomp: this kernel has no seccomp filter: ask for Unconfined")
	}
	if p.GetProfileType() == profileLocalhost {
		return nil // see localSeccomp
	}
	profile := b.host.Defaults.Seccomp
	if profile == nil {
		profile = seccomp.DefaultProfile()
	}
	b.spec.Linux.Seccomp, err = b.seccompFacts().filter(profile)
	return err
}

// localSeccomp puts the Localhost profile that was loaded in the place that
// [builder.seccomp] has left free for it.
func (b *builder) localSeccomp(profile *seccomp.Seccomp) error {
	p, err := seccompProfile(b.sc)
	if err != nil || p.GetProfileType() != profileLocalhost || b.privileged() {
		return err
	}
	if profile == nil {
		return invalid("security_context.seccomp: the profile %s was not loaded", clip(p.GetLocalhostRef()))
	}
	b.spec.Linux.Seccomp, err = b.seccompFacts().filter(profile)
	return err
}

// seccompFacts are what the rules of a profile may be bound to.
type seccompFacts struct {
	arch         archNames
	capabilities []string // of the container
	kernel       [2]uint64
}

func (b *builder) seccompFacts() seccompFacts {
	return seccompFacts{
		arch: seccompArch(b.host.Arch), capabilities: b.spec.Process.Capabilities.Bounding,
		kernel: [2]uint64{uint64(b.host.Kernel[0]), uint64(b.host.Kernel[1])},
	}
}

// filter keeps the rules of a profile that apply to this container.
func (f seccompFacts) filter(p *seccomp.Seccomp) (*specs.LinuxSeccomp, error) {
	out := p.LinuxSeccomp
	out.Architectures = slices.Clone(p.Architectures)
	for _, a := range p.ArchMap {
		if a.Arch == f.arch.oci {
			out.Architectures = append(append(out.Architectures, a.Arch), a.SubArches...)
		}
	}
	out.Syscalls = nil
	for _, s := range p.Syscalls {
		if s.Excludes != nil && f.matchesAny(s.Excludes) || s.Includes != nil && !f.matchesAll(s.Includes) {
			continue
		}
		call := s.LinuxSyscall
		if old := s.Name; old != "" { //nolint:staticcheck // old profile files use it
			call.Names = append(slices.Clone(call.Names), old)
		}
		if len(call.Names) == 0 || call.Action == "" {
			return nil, invalid("seccomp profile: a rule of syscalls needs names and an action")
		}
		out.Syscalls = append(out.Syscalls, call)
	}
	return &out, nil
}

func (f seccompFacts) matchesAny(want *seccomp.Filter) bool {
	return slices.Contains(want.Arches, f.arch.filter) ||
		slices.ContainsFunc(want.Caps, f.hasCapability) ||
		want.MinKernel != nil && f.kernelIs(want.MinKernel)
}

func (f seccompFacts) matchesAll(want *seccomp.Filter) bool {
	return (len(want.Arches) == 0 || slices.Contains(want.Arches, f.arch.filter)) &&
		!slices.ContainsFunc(want.Caps, func(c string) bool { return !f.hasCapability(c) }) &&
		(want.MinKernel == nil || f.kernelIs(want.MinKernel))
}

func (f seccompFacts) hasCapability(name string) bool { return slices.Contains(f.capabilities, name) }

func (f seccompFacts) kernelIs(atLeast *seccomp.KernelVersion) bool {
	return slices.Compare(f.kernel[:], []uint64{atLeast.Kernel, atLeast.Major}) >= 0
}

// archNames are what profiles call an architecture: in archMap, and in includes
// and excludes.
type archNames struct {
	oci    specs.Arch
	filter string
}

// seccompArch knows the architectures Go and Kubernetes both build for.
func seccompArch(goarch string) archNames {
	switch goarch {
	case "amd64":
		return archNames{specs.ArchX86_64, "amd64"}
	case "386":
		return archNames{specs.ArchX86, "x86"}
	case "arm64":
		return archNames{specs.ArchAARCH64, "arm64"}
	case "loong64":
		return archNames{specs.ArchLOONGARCH64, "loongarch64"}
	case "arm":
		return archNames{specs.ArchARM, "arm"}
	case "ppc64le":
		return archNames{specs.ArchPPC64LE, "ppc64le"}
	case "riscv64":
		return archNames{specs.ArchRISCV64, "riscv64"}
	case "s390x":
		return archNames{specs.ArchS390X, "s390x"}
	}
	return archNames{filter: goarch}
}

// LoadSeccomp reads the Localhost profile a security context names, for
// [Found.Seccomp]; nil when it names none. The kubelet gives an absolute
// path; a relative one is looked up in, and can't leave, [Host.SeccompRoot]. The
// error wraps [ErrInvalid].
func LoadSeccomp(sc *runtimeapi.LinuxContainerSecurityContext, h Host) (*seccomp.Seccomp, error) {
	p, err := seccompProfile(sc)
	if err != nil || p.GetProfileType() != profileLocalhost || sc.GetPrivileged() {
		return nil, err
	}
	data, err := readProfile(p.GetLocalhostRef(), h.SeccompRoot)
	if err != nil {
		return nil, invalid("security_context.seccomp.localhost_ref: %w", err)
	}
	return parseSeccomp(p.GetLocalhostRef(), data)
}

// readProfile reads only regular files of a limited size: it would block at a FIFO, and
// a device may have no end.
func readProfile(ref, root string) ([]byte, error) {
	const most = 4 << 20
	if ref == "" {
		return nil, fmt.Errorf("must name a profile when the type is Localhost")
	}
	at, resolve := unix.AT_FDCWD, uint64(0)
	if !filepath.IsAbs(ref) {
		dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		at, resolve = int(dir.Fd()), unix.RESOLVE_BENEATH
	}
	f, err := openRegular(at, ref, resolve, most)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", clip(ref), err)
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}
