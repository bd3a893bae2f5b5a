package oci

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// An image names an account after a number that is too large for a UID, so that
// USER, or run_as_username, of that number becomes root (CVE-2024-40635).
func TestAttackNumberAsUserName(t *testing.T) {
	names := []string{"4294967295", "4294967296", "18446744073709551616", "-1", "+0", "1000"}
	var passwd, group strings.Builder
	for _, n := range names {
		fmt.Fprintf(&passwd, "%s:x:0:0::/root:\n", n)
		fmt.Fprintf(&group, "%s:x:0:\n", n)
	}
	passwd.WriteString("me:x:1000:1000::/home/me:\n")
	root := rootfsWith(t, passwd.String(), group.String())
	type sc = runtimeapi.LinuxContainerSecurityContext
	for _, n := range names {
		for _, req := range []UserRequest{{Image: n}, {Image: n + ":me"}, {Image: "me:" + n}, {Context: &sc{RunAsUsername: n}}} {
			u, err := ResolveUser(root, req)
			if err == nil && (u.UID == 0 || u.GID == 0) {
				t.Errorf("USER %q, %v: resolved as %+v", req.Image, req.Context, u)
			}
			if err != nil && !errors.Is(err, ErrInvalid) {
				t.Errorf("USER %q, %v: %v", req.Image, req.Context, err)
			}
		}
	}
	_, err := ResolveUser(root, UserRequest{Image: "4294967296"})
	if err == nil || !strings.Contains(err.Error(), "4294967294") {
		t.Errorf("%v, want an error that says how large an ID may be", err)
	}
	if u, err := ResolveUser(root, UserRequest{Image: "1000:1000"}); err != nil || u.UID != 1000 || u.GID != 1000 {
		t.Errorf("a number in range: %+v, %v", u, err)
	}
}

// An image's /etc/passwd or /etc/group is a FIFO, a device or a socket, so that the
// daemon blocks in it or makes it act by opening it.
func TestAttackAccountsOfAnotherKind(t *testing.T) {
	for kind, mode := range map[string]uint32{"fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK, "device": unix.S_IFCHR} {
		for _, name := range []string{"passwd", "group"} {
			t.Run(kind+" "+name, func(t *testing.T) {
				root := rootfsWith(t, testPasswd, testGroup)
				path := filepath.Join(root, "etc", name)
				if err := errors.Join(os.Remove(path), unix.Mknod(path, mode|0o666, int(unix.Mkdev(1, 5)))); err != nil {
					t.Skip("needs privilege: ", err)
				}
				opened := watchOpens(t, path)
				if u, err := ResolveUser(root, UserRequest{Image: "1000"}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "/etc/"+name) {
					t.Errorf("%+v, %v: want an error that names the file", u, err)
				}
				if opened() {
					t.Error("it was opened")
				}
			})
		}
	}
}

// watchOpens gives a function that says whether a file was opened since.
func watchOpens(t *testing.T, path string) func() bool {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err == nil {
		t.Cleanup(func() { unix.Close(fd) })
		_, err = unix.InotifyAddWatch(fd, path, unix.IN_OPEN)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() bool {
		n, err := unix.Read(fd, make([]byte, 4096))
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
		return n > 0
	}
}

// An image's /etc/passwd and /etc/group are as large as they may be, or larger, of
// short lines, of long ones and of one without an end, so that each container made
// of it costs the daemon hundreds of megabytes.
func TestAttackHugeAccounts(t *testing.T) {
	const most = 8 << 20 // bytes allocated, garbage included
	fill := func(line string) string { return strings.Repeat(line, mostAccounts/len(line)) }
	me := "me:x:1000:1000::/home/me:\n"
	for name, c := range map[string]struct {
		passwd, group string
		image, says   string
	}{
		"users":          {fill("u:x:1:1::/:\n"), "", "5", ""},
		"bad users":      {fill("u:x:y:z\n"), "", "5", ""},
		"empty lines":    {fill("\n"), fill("\n"), "5", ""},
		"groups":         {me, fill("g:x:1:\n"), "me", ""},
		"own groups":     {me, fill("g:x:1:a,b,me\n"), "me", ""},
		"members":        {me, fill("g:x:1:" + strings.Repeat("m,", 400_000) + "me\n"), "me", ""},
		"too many users": {fill("u:x:1:1::/:\n") + strings.Repeat("\n", 64), "", "5", "10 MiB"},
		"sparse":         {"sparse", "", "5", "10 MiB"},
		"one line":       {me, fill("x"), "me", "1 MiB"},
		"many groups":    {me, manyGroups(), "me", "65536 groups"},
	} {
		t.Run(name, func(t *testing.T) {
			root := rootfsWith(t, c.passwd, c.group)
			if name == "sparse" {
				if err := os.Truncate(filepath.Join(root, "etc/passwd"), 1<<40); err != nil {
					t.Fatal(err)
				}
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := ResolveUser(root, UserRequest{Image: c.image})
			runtime.ReadMemStats(&after)
			if c.says == "" && err != nil || c.says != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v, want an error that says %q", err, c.says)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > most {
				t.Errorf("%d MiB allocated, want at most %d", used>>20, most>>20)
			}
		})
	}
}

func manyGroups() string {
	var b bytes.Buffer
	for i := range mostGroups + 1 {
		fmt.Fprintf(&b, "g:x:%d:me\n", i)
	}
	return b.String()
}
