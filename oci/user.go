package oci

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

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
// rootfs, which no symbolic link in it can leave. The files may have 10 MiB each
// and lines of 1 MiB; they are read line by line. A number is never looked up as a
// name. The error wraps [ErrInvalid] when the request contradicts itself, a name is
// not in the image, or its files are not regular or too large.
func ResolveUser(rootfs string, req UserRequest) (User, error) {
	wish, err := req.wish()
	if err != nil {
		return User{}, err
	}
	acc, closeAll, err := openAccounts(rootfs)
	if err != nil {
		return User{}, err
	}
	defer closeAll()
	return acc.resolve(wish)
}

// mostName is the longest name of a user that is looked up, in bytes.
const mostName = 1 << 10

// userWish is the user of a [UserRequest], after it is decided which of its fields count.
type userWish struct {
	user, group  string // a name or a decimal number; "" is user 0, or the user's own group
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
		return w, invalid("security_context.supplemental_groups_policy: %d is neither Merge nor Strict", p)
	}
	return w, nil
}

func (r UserRequest) identity() (userWish, error) {
	uid, name, gid := r.Context.GetRunAsUser(), r.Context.GetRunAsUsername(), r.Context.GetRunAsGroup()
	var w userWish
	switch {
	case uid != nil && name != "":
		return w, invalid("security_context: give run_as_user or run_as_username, not both")
	case uid != nil:
		id, err := checkID("run_as_user", uid.GetValue())
		if err != nil {
			return w, err
		}
		w.user = strconv.FormatUint(uint64(id), 10)
	case len(name) > mostName:
		return w, invalid("security_context.run_as_username is %d bytes long: use at most %d", len(name), mostName)
	case isNumber(name):
		return w, invalid("security_context.run_as_username: %s is a number; give it as run_as_user", clip(name))
	case name != "":
		w.user = name
	case gid != nil:
		return w, invalid("security_context.run_as_group needs run_as_user or run_as_username")
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
		return 0, invalid("security_context.%s: %d is not an ID from 0 to %d", field, n, int64(math.MaxUint32)-1)
	}
	return uint32(n), nil
}

func (a accounts) resolve(w userWish) (User, error) {
	acc, err := a.account(w.user)
	if err != nil {
		return User{}, err
	}
	member := acc.name
	if w.strict {
		member = ""
	}
	gid, groups, err := a.groupsOf(w.group, member)
	if err != nil {
		return User{}, err
	}
	u := User{UID: acc.uid, GID: acc.gid, Home: acc.home}
	if w.group != "" {
		u.GID = gid
	}
	// The primary group counts among the additional ones: without it a process
	// could drop it and pass a file mode that denies the group (CVE-2022-2989).
	seen := make(map[uint32]bool)
	for _, g := range slices.Concat([]uint32{u.GID}, groups, w.supplemental) {
		if !seen[g] {
			seen[g] = true
			u.Additional = append(u.Additional, g)
		}
	}
	if len(u.Additional) > mostGroups {
		return User{}, invalid("user %s is in more than %d groups: set supplemental_groups_policy to Strict", clip(acc.name), mostGroups)
	}
	return u, nil
}

// account is the first entry that matches; a number without one stands for itself.
func (a accounts) account(user string) (account, error) {
	if user != "" && !isNumber(user) {
		found, ok, err := a.user(func(name []byte, _ uint32) bool { return string(name) == user })
		if err == nil && !ok {
			err = invalid("user %s is not in the image's /etc/passwd: set run_as_user to its number", clip(user))
		}
		return found, err
	}
	uid, err := parseID(cmp.Or(user, "0"))
	if err != nil {
		return account{}, notAnID("user", user)
	}
	found, ok, err := a.user(func(_ []byte, n uint32) bool { return n == uid })
	if err == nil && !ok {
		found = account{uid: uid, home: "/"}
	}
	return found, err
}

// groupsOf gives the ID of the group, which may be a number or "", and those that
// member, who may be "", is in.
func (a accounts) groupsOf(group, member string) (gid uint32, in []uint32, err error) {
	found := group == ""
	if isNumber(group) {
		if gid, err = parseID(group); err != nil {
			return 0, nil, notAnID("group", group)
		}
		found = true
	}
	seen := make(map[uint32]bool) // a file may name one group a million times
	err = a.groups(func(name []byte, id uint32, members []byte) {
		if !found && string(name) == group {
			gid, found = id, true
		}
		if member != "" && len(in) <= mostGroups && !seen[id] && isMember(members, member) {
			in, seen[id] = append(in, id), true
		}
	})
	if err == nil && !found {
		err = invalid("group %s is not in the image's /etc/group: set run_as_user and run_as_group to numbers", clip(group))
	}
	return gid, in, err
}

func notAnID(what, number string) error {
	return invalid("%s %s is not an ID from 0 to %d, and a number is never looked up as a name: set run_as_user and run_as_group", what, clip(number), int64(math.MaxUint32)-1)
}
