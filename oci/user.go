package oci

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// UserRequest says who a container's first process shall be.
type UserRequest struct {
	Image   string                                    // USER of the image: "", user, uid, and each with :group or :gid
	Context *runtimeapi.LinuxContainerSecurityContext // may be nil; its run_as_… come before Image
}

// CRI is the user as ContainerStatus reports it.
func (u User) CRI() *runtimeapi.ContainerUser {
	l := &runtimeapi.LinuxContainerUser{Uid: int64(u.UID), Gid: int64(u.GID)}
	for _, g := range u.Additional {
		l.SupplementalGroups = append(l.SupplementalGroups, int64(g))
	}
	return &runtimeapi.ContainerUser{Linux: l}
}

// ResolveUser finds a user and his groups in /etc/passwd and /etc/group below
// rootfs, which no symbolic link in it can leave. The error wraps [ErrInvalid]
// when the request contradicts itself or a name is not in the image.
func ResolveUser(rootfs string, req UserRequest) (User, error) {
	wish, err := req.wish()
	if err != nil {
		return User{}, err
	}
	acc, err := readAccounts(rootfs)
	if err != nil {
		return User{}, err
	}
	return acc.resolve(wish)
}

// userWish is a request with its precedences settled.
type userWish struct {
	user, group  string // a name or a decimal number; "" is user 0, or the user's own group
	nameOnly     bool   // user is a name even if it looks like a number
	supplemental []uint32
	strict       bool
}

func (r UserRequest) wish() (userWish, error) {
	w, err := r.identity()
	if err != nil {
		return w, err
	}
	for _, g := range r.Context.GetSupplementalGroups() {
		id, err := checkID("supplemental_groups", g)
		if err != nil {
			return w, err
		}
		w.supplemental = append(w.supplemental, id)
	}
	switch p := r.Context.GetSupplementalGroupsPolicy(); p {
	case runtimeapi.SupplementalGroupsPolicy_Merge:
	case runtimeapi.SupplementalGroupsPolicy_Strict:
		w.strict = true
	default:
		return w, fmt.Errorf("%w: security_context.supplemental_groups_policy: %d is neither Merge nor Strict", ErrInvalid, p)
	}
	return w, nil
}

func (r UserRequest) identity() (userWish, error) {
	uid, name, gid := r.Context.GetRunAsUser(), r.Context.GetRunAsUsername(), r.Context.GetRunAsGroup()
	var w userWish
	switch {
	case uid != nil && name != "":
		return w, fmt.Errorf("%w: security_context: give run_as_user or run_as_username, not both", ErrInvalid)
	case uid != nil:
		id, err := checkID("run_as_user", uid.GetValue())
		if err != nil {
			return w, err
		}
		w.user = strconv.FormatUint(uint64(id), 10)
	case name != "":
		w.user, w.nameOnly = name, true
	case gid != nil:
		return w, fmt.Errorf("%w: security_context.run_as_group needs run_as_user or run_as_username", ErrInvalid)
	default:
		w.user, w.group, _ = strings.Cut(r.Image, ":")
	}
	if gid != nil {
		id, err := checkID("run_as_group", gid.GetValue())
		if err != nil {
			return w, err
		}
		w.group = strconv.FormatUint(uint64(id), 10)
	}
	return w, nil
}

// checkID keeps out -1, which the kernel takes for "don't change".
func checkID(field string, n int64) (uint32, error) {
	if n < 0 || n >= math.MaxUint32 {
		return 0, fmt.Errorf("%w: security_context.%s: %d is not an ID from 0 to %d", ErrInvalid, field, n, int64(math.MaxUint32)-1)
	}
	return uint32(n), nil
}

// accounts are the users and groups a root file system knows.
type accounts struct {
	users  []account
	groups []group
}

type account struct {
	name     string
	uid, gid uint32
	home     string
}

type group struct {
	name    string
	gid     uint32
	members []string
}

func (a accounts) resolve(w userWish) (User, error) {
	acc, err := a.user(w)
	if err != nil {
		return User{}, err
	}
	u := User{UID: acc.uid, GID: acc.gid, Home: acc.home}
	if w.group != "" {
		if u.GID, err = a.group(w.group); err != nil {
			return User{}, err
		}
	}
	// The primary group counts among the additional ones: without it a process
	// could drop it and pass a file mode that denies the group (CVE-2022-2989).
	all := []uint32{u.GID}
	if !w.strict && acc.name != "" {
		for _, g := range a.groups {
			if slices.Contains(g.members, acc.name) {
				all = append(all, g.gid)
			}
		}
	}
	for _, g := range append(all, w.supplemental...) {
		if !slices.Contains(u.Additional, g) {
			u.Additional = append(u.Additional, g)
		}
	}
	return u, nil
}

// user is the first entry that matches; a number without one stands for itself.
func (a accounts) user(w userWish) (account, error) {
	uid, err := parseID(w.user)
	numeric := !w.nameOnly && (err == nil || w.user == "")
	i := slices.IndexFunc(a.users, func(x account) bool {
		if numeric {
			return x.uid == uid
		}
		return x.name == w.user
	})
	switch {
	case i >= 0:
		return a.users[i], nil
	case numeric:
		return account{uid: uid, home: "/"}, nil
	}
	return account{}, fmt.Errorf("%w: user %s is not in the image's /etc/passwd: set run_as_user to its number", ErrInvalid, clip(w.user))
}

func (a accounts) group(name string) (uint32, error) {
	if gid, err := parseID(name); err == nil {
		return gid, nil
	}
	for _, g := range a.groups {
		if g.name == name {
			return g.gid, nil
		}
	}
	return 0, fmt.Errorf("%w: group %s is not in the image's /etc/group: set run_as_user and run_as_group to numbers", ErrInvalid, clip(name))
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == math.MaxUint32 {
		err = strconv.ErrRange
	}
	return uint32(n), err
}

func readAccounts(rootfs string) (accounts, error) {
	root, err := os.Open(rootfs)
	if err != nil {
		return accounts{}, fmt.Errorf("opening the container's root: %w", err)
	}
	defer root.Close()
	passwd, err := readInRoot(root, "etc/passwd")
	if err != nil {
		return accounts{}, err
	}
	groups, err := readInRoot(root, "etc/group")
	return accounts{users: parsePasswd(passwd), groups: parseGroup(groups)}, err
}

// readInRoot reads a file as a process with that root would, absolute links
// included, so os.Root, which refuses those, won't do. No file is an empty one.
func readInRoot(root *os.File, name string) (string, error) {
	const most = 16 << 20
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := unix.Openat2(int(root.Fd()), name, &how)
	for errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) { // a rename elsewhere raced with the walk
		fd, err = unix.Openat2(int(root.Fd()), name, &how)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("%w: /%s of the image: %w", ErrInvalid, name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > most {
		return "", fmt.Errorf("%w: /%s of the image must be a file of at most %d bytes", ErrInvalid, name, most)
	}
	data, err := io.ReadAll(io.LimitReader(f, most))
	return string(data), err
}

// parsePasswd skips lines that aren't accounts, as the C library does: a number
// that can't be read must not come out as root's.
func parsePasswd(data string) []account {
	var out []account
	for line := range strings.Lines(data) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || f[0] == "" || f[0][0] == '#' {
			continue
		}
		uid, err := parseID(f[2])
		gid, err2 := parseID(f[3])
		if err != nil || err2 != nil {
			continue
		}
		a := account{name: f[0], uid: uid, gid: gid, home: "/"}
		if len(f) > 5 && f[5] != "" {
			a.home = f[5]
		}
		out = append(out, a)
	}
	return out
}

func parseGroup(data string) []group {
	var out []group
	for line := range strings.Lines(data) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 3 || f[0] == "" || f[0][0] == '#' {
			continue
		}
		gid, err := parseID(f[2])
		if err != nil {
			continue
		}
		g := group{name: f[0], gid: gid}
		if len(f) > 3 && f[3] != "" {
			g.members = strings.Split(f[3], ",")
		}
		out = append(out, g)
	}
	return out
}
