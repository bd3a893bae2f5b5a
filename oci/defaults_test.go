package oci

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestParseUlimits(t *testing.T) {
	got, err := ParseUlimits([]string{"nofile=1024:524288", "core=0", "memlock=unlimited", "stack=8388608:-1"})
	if err != nil {
		t.Fatal(err)
	}
	const infinity = ^uint64(0)
	want := []specs.POSIXRlimit{
		{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 524288}, {Type: "RLIMIT_CORE"},
		{Type: "RLIMIT_MEMLOCK", Soft: infinity, Hard: infinity}, {Type: "RLIMIT_STACK", Soft: 8388608, Hard: infinity},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for text, want := range map[string]string{
		"nofile": "give NAME=SOFT:HARD", "nofile=": "give NAME=", "=1": "give NAME=", "files=1": "being one of as, core",
		"nofile=1k": "give NAME=", "nofile=2:1": "above the hard one", "nofile=1:2:3": "give NAME=", "NOFILE=1": "give NAME=",
		"nofile=18446744073709551616": "give NAME=",
	} {
		if _, err := ParseUlimits([]string{text}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseUlimits(%q): %v, want …%s…", text, err, want)
		}
	}
	if _, err := ParseUlimits([]string{"core=0", "core=1"}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a limit that is there twice: %v", err)
	}
}

func TestParseCapabilities(t *testing.T) {
	got, err := ParseCapabilities([]string{"chown", "CAP_KILL"})
	if diff := cmp.Diff([]string{"CAP_CHOWN", "CAP_KILL"}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if got, err := ParseCapabilities(nil); got == nil || len(got) != 0 || err != nil {
		t.Errorf("no capabilities are %v, %v; nil would mean the built-in ones", got, err)
	}
	for _, bad := range []string{"ALL", "FLY", ""} {
		if _, err := ParseCapabilities([]string{bad}); err == nil {
			t.Errorf("%q is a capability", bad)
		}
	}
}

// TestDefaults: what the operator gives is in the spec of a container that asks for
// nothing, and a container's own wishes start from it.
func TestDefaults(t *testing.T) {
	in := baseInput()
	in.host.Defaults = Defaults{
		Ulimits: []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}}, Capabilities: []string{"CAP_CHOWN", "CAP_KILL"},
	}
	in.security().Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"KILL"}, AddCapabilities: []string{"NET_RAW"}}
	spec, err := Spec(in.pod, in.ctr, in.img, in.host)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"CAP_CHOWN", "CAP_NET_RAW"}, spec.Process.Capabilities.Bounding); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(in.host.Defaults.Ulimits, spec.Process.Rlimits); diff != "" {
		t.Error(diff)
	}
	in = baseInput()
	in.host.Defaults.Capabilities = []string{}
	if spec, err = Spec(in.pod, in.ctr, in.img, in.host); err != nil || len(spec.Process.Capabilities.Bounding) != 0 {
		t.Errorf("with no default capabilities a container has %v, %v", spec.Process.Capabilities, err)
	}
}

// TestDefaultSeccomp: RuntimeDefault is the operator's profile.
func TestDefaultSeccomp(t *testing.T) {
	file := filepath.Join(t.TempDir(), "profile.json")
	if err := os.WriteFile(file, []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	in := baseInput()
	var err error
	if in.host.Defaults.Seccomp, err = LoadDefaultSeccomp(file); err != nil {
		t.Fatal(err)
	}
	in.security().Seccomp = &runtimeapi.SecurityProfile{ProfileType: profileDefault}
	spec, err := Spec(in.pod, in.ctr, in.img, in.host)
	if err != nil {
		t.Fatal(err)
	}
	if got := spec.Linux.Seccomp; got.DefaultAction != specs.ActAllow || len(got.Syscalls) != 1 {
		t.Errorf("RuntimeDefault is %+v, want the profile of the operator", got)
	}
	for _, text := range []string{"", "{}", "["} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadDefaultSeccomp(file); err == nil {
			t.Errorf("%q is a seccomp profile", text)
		}
	}
	if _, err := LoadDefaultSeccomp("/dev/zero"); err == nil {
		t.Error("a device is a seccomp profile")
	}
}

// TestOwnDevices: a device belongs to the container's user where the operator wants that,
// but for what the container does not say.
func TestOwnDevices(t *testing.T) {
	hostUID, hostGID := uint32(0), uint32(44)
	for name, tc := range map[string]struct {
		own      bool
		user     *int64
		uid, gid uint32
	}{
		"off": {false, ptrTo(int64(1000)), 0, 44}, "user": {true, ptrTo(int64(1000)), 1000, 44}, "nobody said": {true, nil, 0, 44},
	} {
		in := baseInput()
		in.host.Defaults.OwnDevices = tc.own
		if tc.user != nil {
			in.security().RunAsUser = int64Value(*tc.user)
		}
		in.ctr.Devices = []Device{{LinuxDevice: specs.LinuxDevice{Path: "/dev/x", Type: "c", Major: 1, Minor: 3, UID: &hostUID, GID: &hostGID}, Source: "/dev/x", Access: "rw"}}
		spec, err := Spec(in.pod, in.ctr, in.img, in.host)
		if err != nil {
			t.Fatal(err)
		}
		got := spec.Linux.Devices[0]
		if *got.UID != tc.uid || *got.GID != tc.gid || hostUID != 0 {
			t.Errorf("%s: the device is of %d:%d, want %d:%d", name, *got.UID, *got.GID, tc.uid, tc.gid)
		}
	}
}
