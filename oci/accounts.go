package oci

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	// mostAccounts is how large /etc/passwd and /etc/group may be, in bytes.
	mostAccounts = 10 << 20
	// longestLine is how long a line of them may be, in bytes: a group has all its
	// members on one.
	longestLine = 1 << 20
	// mostGroups is how many groups the kernel lets a process have (NGROUPS_MAX).
	mostGroups = 65536
)

// accounts are the files that name users and groups; nil is a file that is not
// there. Each is read at most once, line by line.
type accounts struct {
	passwd, group io.Reader
}

// account is a line of /etc/passwd.
type account struct {
	name     string
	uid, gid uint32
	home     string
}

// openAccounts gives /etc/passwd and /etc/group as a process with that root would
// see them: absolute links lead below root, so os.Root, which refuses them, won't do.
func openAccounts(rootfs string) (acc accounts, closeAll func(), err error) {
	root, err := os.OpenFile(rootfs, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return acc, nil, fmt.Errorf("opening the container's root: %w", err)
	}
	defer root.Close()
	var open []*os.File
	closeAll = func() {
		for _, f := range open {
			f.Close()
		}
	}
	for i, name := range []string{"etc/passwd", "etc/group"} {
		f, err := openRegular(int(root.Fd()), name, unix.RESOLVE_IN_ROOT, mostAccounts)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			closeAll()
			return acc, nil, invalid("/%s of the image: %w", name, err)
		}
		open = append(open, f)
		*[]*io.Reader{&acc.passwd, &acc.group}[i] = f
	}
	return acc, closeAll, nil
}

// eachLine calls do for each line until that says it has enough.
func eachLine(r io.Reader, name string, do func(line []byte) (enough bool)) error {
	if r == nil {
		return nil
	}
	limited := &io.LimitedReader{R: r, N: mostAccounts + 1} // it may grow while it is read
	sc := bufio.NewScanner(limited)
	sc.Buffer(make([]byte, 0, 4096), longestLine)
	for sc.Scan() {
		if limited.N == 0 {
			return invalid("%s of the image: %w", name, errTooLarge(mostAccounts))
		}
		if line := bytes.TrimSpace(sc.Bytes()); len(line) > 0 && line[0] != '#' && do(line) {
			return nil
		}
	}
	if errors.Is(sc.Err(), bufio.ErrTooLong) {
		return invalid("%s of the image: a line must have at most %d MiB", name, longestLine>>20)
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("read %s of the image: %w", name, err)
	}
	return nil
}

// user gives the first account that matches. Lines that aren't accounts are passed
// over, as the C library does: a number that can't be read must not come out as
// root's.
func (a accounts) user(matches func(name []byte, uid uint32) bool) (found account, ok bool, err error) {
	err = eachLine(a.passwd, "/etc/passwd", func(line []byte) bool {
		name, rest, _ := bytes.Cut(line, colon)
		_, rest, _ = bytes.Cut(rest, colon) // the password
		id, rest, _ := bytes.Cut(rest, colon)
		uid, err := parseID(id)
		id, rest, _ = bytes.Cut(rest, colon)
		gid, err2 := parseID(id)
		if len(name) == 0 || err != nil || err2 != nil || !matches(name, uid) {
			return false
		}
		_, rest, _ = bytes.Cut(rest, colon) // the full name
		home, _, _ := bytes.Cut(rest, colon)
		found, ok = account{name: string(name), uid: uid, gid: gid, home: string(home)}, true
		if len(home) == 0 {
			found.home = "/"
		}
		return true
	})
	return found, ok, err
}

// groups calls do for each group, with its members divided by commas.
func (a accounts) groups(do func(name []byte, gid uint32, members []byte)) error {
	return eachLine(a.group, "/etc/group", func(line []byte) bool {
		name, rest, _ := bytes.Cut(line, colon)
		_, rest, _ = bytes.Cut(rest, colon) // the password
		id, rest, _ := bytes.Cut(rest, colon)
		members, _, _ := bytes.Cut(rest, colon)
		if gid, err := parseID(id); err == nil && len(name) > 0 {
			do(name, gid, members)
		}
		return false
	})
}

var colon, comma = []byte{':'}, []byte{','}

func isMember(members []byte, name string) bool {
	for len(members) > 0 {
		var m []byte
		m, members, _ = bytes.Cut(members, comma)
		if string(m) == name {
			return true
		}
	}
	return false
}

// parseID reads a decimal number that the kernel takes for an ID: not -1, which it
// takes for "don't change".
func parseID[T string | []byte](s T) (uint32, error) {
	var n uint64
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, strconv.ErrSyntax
		}
		if n = 10*n + uint64(c-'0'); n >= math.MaxUint32 {
			return 0, strconv.ErrRange
		}
	}
	if len(s) == 0 {
		return 0, strconv.ErrSyntax
	}
	return uint32(n), nil
}

// isNumber tells a number, which is never looked up as a name, whatever its size:
// an image that has an account called 4294967296 must not choose who that is.
func isNumber(s string) bool {
	if s != "" && (s[0] == '-' || s[0] == '+') {
		s = s[1:]
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}
