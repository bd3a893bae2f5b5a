package shim

import (
	"encoding/json"
	"fmt"
	"runtime"
	"testing"
	"weak"

	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/shimapi"
	"berth/test/shimnode"
)

// manyRules is how many system calls the profile of a runtime allows by name, more or less.
const manyRules = 400

// profileSpec is the spec of a usual container. seed tells its seccomp profile from others.
func profileSpec(t testing.TB, seed int) json.RawMessage {
	t.Helper()
	spec := deviceSpec(0)
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_AUDIT_WRITE"}
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	for i := range 20 {
		path := fmt.Sprintf("/proc/hidden%d", i)
		spec.Linux.MaskedPaths = append(spec.Linux.MaskedPaths, path)
		mount := specs.Mount{Destination: path, Source: path, Type: "bind", Options: []string{"bind", "ro"}}
		spec.Mounts = append(spec.Mounts, mount)
	}
	var names []string
	for i := range manyRules {
		names = append(names, fmt.Sprintf("call%d", i))
	}
	errno := uint(seed)
	spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, DefaultErrnoRet: &errno, Flags: []specs.LinuxSeccompFlag{},
		Syscalls: []specs.LinuxSyscall{{Names: names, Action: specs.ActAllow}},
	}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// configured is the configuration of a container as it is kept once the container was made.
func configured(t testing.TB, text json.RawMessage) (*configs.Config, parts) {
	t.Helper()
	spec, profile, err := readSpec(text)
	if err != nil {
		t.Fatal(err)
	}
	config, err := libcontainerConfig("id", spec, false)
	if err != nil {
		t.Fatal(err)
	}
	p, err := shareParts(config, profile)
	if err != nil {
		t.Fatal(err)
	}
	forgetMade(config)
	return config, p
}

func firstRule(config *configs.Config) *devices.Rule { return config.Cgroups.Resources.Devices[0] }

// known is how many values are shared.
func known() int {
	var n int
	for _, of := range []func() int{seccompProfiles.size, adoptedProfiles.size, capabilitySets.size, deviceRules.size} {
		n += of()
	}
	return n
}

func (s *shared[T]) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.known)
}

// TestSharedParts: containers share what is equal in their configurations, and nothing of it
// is left once the last of them is gone.
func TestSharedParts(t *testing.T) {
	runtime.GC()
	before := known()
	a, keptA := configured(t, profileSpec(t, 1))
	b, keptB := configured(t, profileSpec(t, 1))
	other, keptOther := configured(t, profileSpec(t, 2))
	if a.Seccomp == nil || len(a.Seccomp.Syscalls) != manyRules || *a.Seccomp.DefaultErrnoRet != 1 {
		t.Fatalf("the profile is %+v", a.Seccomp)
	}
	if a.Seccomp != b.Seccomp || a.Capabilities != b.Capabilities || firstRule(a) != firstRule(b) {
		t.Error("two equal containers have parts of their own")
	}
	if a.Seccomp == other.Seccomp || *other.Seccomp.DefaultErrnoRet != 2 {
		t.Error("two profiles that differ are one")
	}
	if a.Capabilities != other.Capabilities {
		t.Error("containers with two profiles have capabilities of their own")
	}
	last := weak.Make(a.Seccomp)
	runtime.KeepAlive([]any{keptA, keptB, keptOther})
	a, b, other = nil, nil, nil
	shimnode.Eventually(t, "no part is left of containers that are gone", func() bool {
		runtime.GC()
		return last.Value() == nil && known() <= before
	})
}

// TestSharedAfterAdoption: the containers of a shim that died share the profile that
// libcontainer has stored of each.
func TestSharedAfterAdoption(t *testing.T) {
	text, err := json.Marshal(func() *configs.Config { c, _ := configured(t, profileSpec(t, 3)); return c }())
	if err != nil {
		t.Fatal(err)
	}
	var loaded [2]configs.Config
	var kept [2]parts
	for i := range loaded {
		if err := json.Unmarshal(text, &loaded[i]); err != nil {
			t.Fatal(err)
		}
		if kept[i], err = shareAdopted(&loaded[i]); err != nil {
			t.Fatal(err)
		}
	}
	a, b := loaded[0], loaded[1]
	if len(b.Seccomp.Syscalls) != manyRules || a.Seccomp.Syscalls[0] != b.Seccomp.Syscalls[0] {
		t.Error("two adopted containers have seccomp rules of their own")
	}
	if &a.Capabilities.Bounding[0] != &b.Capabilities.Bounding[0] || firstRule(&a) != firstRule(&b) {
		t.Error("two adopted containers have capabilities or device rules of their own")
	}
	runtime.KeepAlive(kept)
}

// TestMadeAgain: a value that is made again while what is left of the former is removed stays.
func TestMadeAgain(t *testing.T) {
	var s shared[[]string]
	makeIt := func() (*[]string, error) { return &[]string{"a"}, nil }
	v, err := s.of(digest{1}, makeIt)
	if err != nil {
		t.Fatal(err)
	}
	s.forget(digest{1}) // as for a former value of the same digest
	if again, _ := s.of(digest{1}, makeIt); again != v {
		t.Error("a value that is in use was forgotten")
	}
}

// TestMemoryOfAConfiguration bounds what the shim keeps of the configuration of a container.
// Without sharing it is 41 KiB.
func TestMemoryOfAConfiguration(t *testing.T) {
	const containers, limit = 200, 6 << 10
	text := profileSpec(t, 4)
	first, held := configured(t, text) // the one that has all of what is shared
	heap := func() uint64 {
		runtime.GC()
		runtime.GC() // the first lets go what pools have
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	var kept []any
	for range containers {
		config, p := configured(t, text)
		kept = append(kept, config, p)
	}
	each := (heap() - before) / containers
	t.Logf("the configuration of a container takes %d bytes", each)
	if each > limit {
		t.Errorf("the configuration of a container takes %d bytes, more than %d", each, limit)
	}
	runtime.KeepAlive([]any{kept, first, held})
}

// TestProfileOfAForeignShim: a foreign shim gets the seccomp profile with the rest of the spec.
func TestProfileOfAForeignShim(t *testing.T) {
	spec, text, err := readSpec(profileSpec(t, 5))
	if err != nil {
		t.Fatal(err)
	}
	profile, err := readProfile(text)
	if err != nil || profile == nil || len(profile.Syscalls[0].Names) != manyRules {
		t.Errorf("the profile is %+v, %v", profile, err)
	}
	if spec.Linux.Seccomp != nil || len(spec.Mounts) != 20 || len(spec.Linux.Namespaces) != 1 {
		t.Errorf("the spec is %+v", spec)
	}
	for _, none := range []string{`{}`, `{"linux":{}}`, `{"linux":{"seccomp":null}}`, `{"linux":null}`} {
		_, text, err := readSpec(json.RawMessage(none))
		if err != nil {
			t.Fatal(err)
		}
		if profile, err := readProfile(text); err != nil || profile != nil {
			t.Errorf("%s has the profile %+v, %v", none, profile, err)
		}
		if profile, err := seccompOf(text); err != nil || profile != nil {
			t.Errorf("%s has the profile %+v, %v", none, profile, err)
		}
	}
	if _, err := seccompOf(json.RawMessage(`{"defaultAction":"none"}`)); err == nil {
		t.Error("a profile with an unknown action was taken")
	}
	if err := checkSpec(shimapi.CreateRequest{ID: "c", Pod: "p", Dir: "/d"}, spec); err != nil {
		t.Error(err)
	}
}
