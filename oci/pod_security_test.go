package oci

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/shimapi"
)

func podOf(sc *runtimeapi.LinuxSandboxSecurityContext) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: sc}}
}

func userNamespace(size uint32) *runtimeapi.NamespaceOption {
	line := []*runtimeapi.IDMapping{{HostId: 100000, Length: size}}
	return &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Mode: modePod, Uids: line, Gids: line}}
}

func int64Value(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }

func TestPodSecurity(t *testing.T) {
	armed := Host{AppArmor: true, AppArmorDefault: "the-default"}
	local := &runtimeapi.SecurityProfile{ProfileType: profileLocalhost, LocalhostRef: "mine"}
	for name, c := range map[string]struct {
		sc   *runtimeapi.LinuxSandboxSecurityContext
		host Host
		want PodSecurity
	}{
		"nothing asked":          {nil, Host{}, PodSecurity{User: shimapi.PauseUser{UID: 65535, GID: 65535}}},
		"small user namespace":   {&runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: userNamespace(65535)}, Host{}, PodSecurity{}},
		"usual user namespace":   {&runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: userNamespace(65536)}, Host{}, PodSecurity{User: shimapi.PauseUser{UID: 65535, GID: 65535}}},
		"root":                   {&runtimeapi.LinuxSandboxSecurityContext{RunAsUser: int64Value(0), RunAsGroup: int64Value(0)}, Host{}, PodSecurity{}},
		"user, group and groups": {&runtimeapi.LinuxSandboxSecurityContext{RunAsUser: int64Value(7), RunAsGroup: int64Value(8), SupplementalGroups: []int64{9, 10}}, Host{}, PodSecurity{User: shimapi.PauseUser{UID: 7, GID: 8, Groups: []uint32{9, 10}}}},
		"AppArmor's default":     {&runtimeapi.LinuxSandboxSecurityContext{RunAsUser: int64Value(1)}, armed, PodSecurity{User: shimapi.PauseUser{UID: 1, GID: 65535}, AppArmor: "the-default"}},
		"AppArmor's own":         {&runtimeapi.LinuxSandboxSecurityContext{RunAsUser: int64Value(1), Apparmor: local}, armed, PodSecurity{User: shimapi.PauseUser{UID: 1, GID: 65535}, AppArmor: "mine"}},
		"AppArmor not loaded":    {nil, Host{AppArmor: true}, PodSecurity{User: shimapi.PauseUser{UID: 65535, GID: 65535}}},
		"AppArmor unconfined":    {&runtimeapi.LinuxSandboxSecurityContext{RunAsUser: int64Value(1), Apparmor: &runtimeapi.SecurityProfile{ProfileType: profileUnconfined}}, armed, PodSecurity{User: shimapi.PauseUser{UID: 1, GID: 65535}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := PodSecurityOf(podOf(c.sc), c.host)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestPodSecurityRefuses(t *testing.T) {
	local := &runtimeapi.SecurityProfile{ProfileType: profileLocalhost, LocalhostRef: "mine"}
	for want, sc := range map[string]*runtimeapi.LinuxSandboxSecurityContext{
		"run_as_user: -1 is not an ID":                                         {RunAsUser: int64Value(-1)},
		"run_as_user: 4294967295 is not an ID":                                 {RunAsUser: int64Value(1<<32 - 1)},
		"run_as_group: 4294967296 is not an ID":                                {RunAsUser: int64Value(1), RunAsGroup: int64Value(1 << 32)},
		"supplemental_groups: -5 is not an ID":                                 {SupplementalGroups: []int64{1, -5}},
		"supplemental_groups: 1025 groups":                                     {SupplementalGroups: make([]int64, 1025)},
		"supplemental_groups_policy: 9 is neither":                             {SupplementalGroupsPolicy: 9},
		"run_as_user: 65536 is not mapped by the pod's user namespace: use an": {RunAsUser: int64Value(65536), NamespaceOptions: userNamespace(65536)},
		"supplemental_groups: 70000 is not mapped":                             {SupplementalGroups: []int64{70000}, NamespaceOptions: userNamespace(65536)},
		"apparmor: AppArmor is not enabled":                                    {Apparmor: local},
	} {
		t.Run(want, func(t *testing.T) {
			_, err := PodSecurityOf(podOf(sc), Host{})
			if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrUnsupported) {
				t.Errorf("want %q, got %v", want, err)
			}
		})
	}
}

// A default that is asked for and was not loaded is refused, as a container's is.
func TestPodAppArmorNotLoaded(t *testing.T) {
	asked := &runtimeapi.SecurityProfile{ProfileType: profileDefault}
	_, err := PodSecurityOf(podOf(&runtimeapi.LinuxSandboxSecurityContext{Apparmor: asked}), Host{AppArmor: true})
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "is not loaded") {
		t.Error(err)
	}
}

// TestPodProfiles wants a seccomp profile that is missing or broken refused with the
// pod, and not when the first container asks for it.
func TestPodProfiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for ref, want := range map[string]string{
		file("good", `{"defaultAction":"SCMP_ACT_ALLOW"}`): "",
		file("bad", `{"defaultAction":`):                   "seccomp profile",
		filepath.Join(dir, "none"):                         "no such file",
	} {
		err := CheckPodProfiles(&runtimeapi.LinuxSandboxSecurityContext{
			Seccomp: &runtimeapi.SecurityProfile{ProfileType: profileLocalhost, LocalhostRef: ref},
		}, Host{})
		if (want == "") != (err == nil) || err != nil && !(errors.Is(err, ErrInvalid) && strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", filepath.Base(ref), err, want)
		}
	}
}
