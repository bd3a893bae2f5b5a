package oci

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// allows tells whether a filter lets a call through whatever its arguments.
func allows(s *specs.LinuxSeccomp, call string) bool {
	return slices.ContainsFunc(s.Syscalls, func(c specs.LinuxSyscall) bool {
		return c.Action == specs.ActAllow && len(c.Args) == 0 && slices.Contains(c.Names, call)
	})
}

func defaultFilter(t *testing.T, change func(*specInput)) *specs.LinuxSeccomp {
	t.Helper()
	in := baseInput()
	in.security().Seccomp = &runtimeapi.SecurityProfile{}
	change(in)
	spec, err := Spec(in.pod, in.ctr, in.img, in.host)
	if err != nil {
		t.Fatal(err)
	}
	return spec.Linux.Seccomp
}

func TestSeccompDefaultFollowsCapabilities(t *testing.T) {
	plain := defaultFilter(t, func(*specInput) {})
	admin := defaultFilter(t, func(in *specInput) {
		in.security().Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
	})
	lacking := defaultFilter(t, func(in *specInput) {
		in.security().Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
		in.host.Capabilities = slices.DeleteFunc(in.host.Capabilities, func(c string) bool { return c == "CAP_SYS_ADMIN" })
	})
	if !allows(plain, "read") || allows(plain, "mount") || !allows(admin, "mount") || allows(lacking, "mount") {
		t.Errorf("mount: plain %v, admin %v, lacking %v", allows(plain, "mount"), allows(admin, "mount"), allows(lacking, "mount"))
	}
	if plain.DefaultAction != specs.ActErrno || !slices.Equal(plain.Architectures, []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}) {
		t.Errorf("got %s for %v", plain.DefaultAction, plain.Architectures)
	}
}

func TestSeccompFollowsKernelAndArch(t *testing.T) {
	old := defaultFilter(t, func(in *specInput) { in.host.Kernel = [2]int{4, 7} })
	arm := defaultFilter(t, func(in *specInput) { in.host.Arch = "arm64" })
	if allows(old, "ptrace") || !allows(defaultFilter(t, func(*specInput) {}), "ptrace") {
		t.Error("ptrace must need Linux 4.8")
	}
	if allows(arm, "arch_prctl") || !slices.Contains(arm.Architectures, specs.ArchAARCH64) {
		t.Error("the filter for arm64 is not one")
	}
}

// The rules of the library's own translation, which knows this machine only, are
// ours too.
func TestSeccompDefaultAgreesWithMoby(t *testing.T) {
	host, err := DetectHost()
	if err != nil {
		t.Fatal(err)
	}
	in := baseInput()
	in.security().Seccomp = &runtimeapi.SecurityProfile{}
	in.host.Kernel, in.host.Arch = host.Kernel, host.Arch
	spec, err := Spec(in.pod, in.ctr, in.img, in.host)
	if err != nil {
		t.Fatal(err)
	}
	want, err := seccomp.GetDefaultProfile(spec)
	if err != nil {
		t.Fatal(err)
	}
	if asJSON(t, want) != asJSON(t, spec.Linux.Seccomp) {
		t.Error("differs")
	}
}

func TestLoadSeccomp(t *testing.T) {
	root := t.TempDir()
	const profile = `{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO"}]}`
	for name, text := range map[string]string{"good.json": profile, "rubbish.json": "{", "empty.json": "{}"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("/etc/passwd", filepath.Join(root, "out")), unix.Mkfifo(filepath.Join(root, "fifo"), 0o644)); err != nil {
		t.Fatal(err)
	}
	load := func(ref string) (*seccomp.Seccomp, error) {
		return LoadSeccomp(&runtimeapi.LinuxContainerSecurityContext{
			Seccomp: &runtimeapi.SecurityProfile{ProfileType: profileLocalhost, LocalhostRef: ref},
		}, Host{SeccompRoot: root})
	}
	for _, ref := range []string{"good.json", filepath.Join(root, "good.json")} {
		if p, err := load(ref); err != nil || len(p.Syscalls) != 1 {
			t.Errorf("%s: %v, %v", ref, p, err)
		}
	}
	for _, ref := range []string{"", "none.json", "../../../etc/passwd", "out", "fifo", "rubbish.json", "empty.json", "/dev/zero", "/", strings.Repeat("x", 1<<16)} {
		if p, err := load(ref); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.30q: got %v, %v", ref, p, err)
		}
	}
}

func TestLoadSeccompOldField(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.json")
	if err := os.WriteFile(file, []byte(`{"defaultAction":"SCMP_ACT_ALLOW"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for old, want := range map[string]bool{"": false, "unconfined": false, "runtime/default": false, "localhost/" + file: true} {
		p, err := LoadSeccomp(&runtimeapi.LinuxContainerSecurityContext{SeccompProfilePath: old}, Host{})
		if err != nil || (p != nil) != want {
			t.Errorf("%q: got %v, %v", old, p, err)
		}
	}
}

func TestCheckAppArmorWithoutIt(t *testing.T) {
	sc := &runtimeapi.LinuxContainerSecurityContext{Apparmor: &runtimeapi.SecurityProfile{ProfileType: profileLocalhost}}
	if err := CheckAppArmor(sc, Host{AppArmor: true}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a profile without a name: %v", err)
	}
	h := Host{}
	if err := errors.Join(CheckAppArmor(nil, h), LoadAppArmorDefault(&h)); err != nil || h.AppArmorDefault != "" {
		t.Errorf("got %v, %q", err, h.AppArmorDefault)
	}
}
