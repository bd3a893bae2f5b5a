package oci

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	testPasswd = `# users
root:x:0:0:root:/root:/bin/sh
me:x:1000:1000::/home/me:/bin/sh
homeless:x:1001:1001::
broken:x:none:0::/root:
minus:x:-1:0::/root:
huge:x:4294967295:0::/root:
42:x:7:7::/seven:
`
	testGroup = `root:x:0:
wheel:x:10:root,me
extra:x:50000:me
broken:x:zero:me
42:x:8:
`
)

func rootfsWith(t *testing.T, passwd, group string) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func id(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }

func TestResolveUser(t *testing.T) {
	root := rootfsWith(t, testPasswd, testGroup)
	type sc = runtimeapi.LinuxContainerSecurityContext
	for name, c := range map[string]struct {
		image string
		sc    *sc
		want  User
	}{
		"nothing":         {"", nil, User{0, 0, []uint32{0, 10}, "/root"}},
		"image uid":       {"1000", nil, User{1000, 1000, []uint32{1000, 10, 50000}, "/home/me"}},
		"image name":      {"me", nil, User{1000, 1000, []uint32{1000, 10, 50000}, "/home/me"}},
		"image uid:gid":   {"5:6", nil, User{5, 6, []uint32{6}, "/"}},
		"image name:name": {"me:wheel", nil, User{1000, 10, []uint32{10, 50000}, "/home/me"}},
		"image :group":    {":extra", nil, User{0, 50000, []uint32{50000, 10}, "/root"}},
		"image number":    {"42", nil, User{42, 0, []uint32{0}, "/"}},
		"no home":         {"homeless", nil, User{1001, 1001, []uint32{1001}, "/"}},
		"user":            {"me:wheel", &sc{RunAsUser: id(1001)}, User{1001, 1001, []uint32{1001}, "/"}},
		"user unknown":    {"", &sc{RunAsUser: id(7777)}, User{7777, 0, []uint32{0}, "/"}},
		"user zero":       {"me", &sc{RunAsUser: id(0)}, User{0, 0, []uint32{0, 10}, "/root"}},
		"user and group":  {"", &sc{RunAsUser: id(1000), RunAsGroup: id(3000)}, User{1000, 3000, []uint32{3000, 10, 50000}, "/home/me"}},
		"name":            {"", &sc{RunAsUsername: "me"}, User{1000, 1000, []uint32{1000, 10, 50000}, "/home/me"}},
		"merge":           {"me", &sc{SupplementalGroups: []int64{1234, 10}}, User{1000, 1000, []uint32{1000, 10, 50000, 1234}, "/home/me"}},
		"strict": {"me", &sc{SupplementalGroups: []int64{1234}, SupplementalGroupsPolicy: runtimeapi.SupplementalGroupsPolicy_Strict},
			User{1000, 1000, []uint32{1000, 1234}, "/home/me"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ResolveUser(root, UserRequest{Image: c.image, Context: c.sc})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestResolveUserRefuses(t *testing.T) {
	root := rootfsWith(t, testPasswd, testGroup)
	type sc = runtimeapi.LinuxContainerSecurityContext
	for name, c := range map[string]struct {
		image string
		sc    *sc
	}{
		"unknown name":       {"nobody", nil},
		"unknown group":      {"me:nogroup", nil},
		"broken entry":       {"broken", nil},
		"entry of -1":        {"minus", nil},
		"entry of 2^32-1":    {"huge", nil},
		"minus one":          {"-1", nil},
		"too large":          {"4294967295", nil},
		"name of digits":     {"", &sc{RunAsUsername: "42"}},
		"group alone":        {"me", &sc{RunAsGroup: id(5)}},
		"both":               {"", &sc{RunAsUser: id(5), RunAsUsername: "me"}},
		"unknown username":   {"", &sc{RunAsUsername: "1000"}},
		"negative user":      {"", &sc{RunAsUser: id(-1)}},
		"huge group":         {"", &sc{RunAsUser: id(0), RunAsGroup: id(1 << 32)}},
		"negative extra":     {"", &sc{SupplementalGroups: []int64{-5}}},
		"policy of tomorrow": {"", &sc{SupplementalGroupsPolicy: 7}},
	} {
		if u, err := ResolveUser(root, UserRequest{Image: c.image, Context: c.sc}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %+v, %v", name, u, err)
		}
	}
}

func TestResolveUserWithoutFiles(t *testing.T) {
	u, err := ResolveUser(t.TempDir(), UserRequest{Image: "1000:5"})
	if diff := cmp.Diff(User{1000, 5, []uint32{5}, "/"}, u); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

// The files of a hostile image must lead neither out of it nor nowhere.
func TestResolveUserStaysInRoot(t *testing.T) {
	outside := rootfsWith(t, "spy:x:4711:4711::/spy:\n", "")
	for name, prepare := range map[string]func(root, passwd string) error{
		"absolute link": func(_, p string) error { return os.Symlink(filepath.Join(outside, "etc/passwd"), p) },
		"relative link": func(_, p string) error {
			return os.Symlink(strings.Repeat("../", 30)+outside+"/etc/passwd", p)
		},
		"linked folder": func(root, p string) error {
			return errors.Join(os.RemoveAll(filepath.Dir(p)), os.Symlink(filepath.Join(outside, "etc"), filepath.Join(root, "etc")))
		},
		"magic link": func(_, p string) error { return os.Symlink("/proc/self/root"+outside+"/etc/passwd", p) },
		"fifo":       func(_, p string) error { return unix.Mkfifo(p, 0o644) },
		"folder":     func(_, p string) error { return os.Mkdir(p, 0o755) },
		"device":     func(_, p string) error { return unix.Mknod(p, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))) },
		"loop":       func(_, p string) error { return os.Symlink("passwd", p) },
	} {
		t.Run(name, func(t *testing.T) {
			root := rootfsWith(t, "", "")
			passwd := filepath.Join(root, "etc/passwd")
			if err := errors.Join(os.Remove(passwd), prepare(root, passwd)); errors.Is(err, unix.EPERM) {
				t.Skip("needs privilege:", err)
			} else if err != nil {
				t.Fatal(err)
			}
			if u, err := ResolveUser(root, UserRequest{Image: "spy"}); err == nil {
				t.Errorf("found %+v outside", u)
			}
		})
	}
}

func TestResolveUserFollowsAbsoluteLinkInside(t *testing.T) {
	root := rootfsWith(t, "", "")
	passwd := filepath.Join(root, "etc/passwd")
	if err := errors.Join(os.Rename(passwd, filepath.Join(root, "etc/old")), os.Symlink("/real", passwd),
		os.WriteFile(filepath.Join(root, "real"), []byte(testPasswd), 0o644)); err != nil {
		t.Fatal(err)
	}
	if u, err := ResolveUser(root, UserRequest{Image: "me"}); err != nil || u.UID != 1000 {
		t.Errorf("got %+v, %v", u, err)
	}
}

func TestUserCRI(t *testing.T) {
	got := User{UID: 1, GID: 2, Additional: []uint32{2, 3}}.CRI().GetLinux()
	if got.Uid != 1 || got.Gid != 2 || len(got.SupplementalGroups) != 2 || got.SupplementalGroups[1] != 3 {
		t.Errorf("got %v", got)
	}
}

// Whatever the files hold, a user that resolves by name is an entry of them, and
// nobody is root by accident.
func FuzzAccounts(f *testing.F) {
	f.Add(testPasswd, testGroup, "me:wheel")
	f.Add("a:b", ":::", ":")
	f.Add("root:x:0x0:0", "g:x:-0:a,,b", "root:g")
	f.Add(strings.Repeat("x", 1<<17)+":x:1:1", "", "x")
	f.Fuzz(func(t *testing.T, passwd, groups, spec string) {
		acc := accounts{passwd: strings.NewReader(passwd), group: strings.NewReader(groups)}
		w, err := UserRequest{Image: spec}.wish()
		if err != nil {
			t.Skip()
		}
		u, err := acc.resolve(w)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		if len(u.Additional) == 0 || u.Additional[0] != u.GID {
			t.Errorf("%+v: primary group is not first", u)
		}
		name := w.user
		if _, err := parseID(name); err != nil && name != "" && !strings.Contains(passwd, name+":") {
			t.Errorf("found %q in %q", name, passwd)
		}
	})
}
