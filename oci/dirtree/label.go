package dirtree

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/oci/openat2"
)

// labelName is the extended attribute that holds the SELinux label of a file.
const labelName = "security.selinux"

// Label gives a file, or a directory and all below it, a SELinux label. Nothing that is
// mounted below is touched. A link is labelled itself, and what it leads to is not.
// Entries deeper than the walk goes keep their labels. A file system that keeps no labels
// is no error: one mounted with the option context gives all its files the same, NFS and
// others have none. With an error, such as the end of ctx, a part of the tree is labelled;
// a further call passes over what is labelled already.
func Label(ctx context.Context, path, label string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	l := labeller{label: []byte(label), known: make([]byte, len(label)+1)}
	err = l.set(fd)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "label", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	root, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	return newWalk(&l).run(ctx, root)
}

type labeller struct {
	label []byte
	known []byte // room for what a file has
}

func (l *labeller) opened(*unix.Stat_t) {}

func (l *labeller) tooDeep(*dir) (cut bool, err error) { return false, nil }

// entry opens the entry before it labels it, so that a name that is given to another file
// meanwhile can't lead to that one, and passes over what is mounted there.
func (l *labeller) entry(d *dir, e entry) (enter bool, err error) {
	fd, err := openEntry(d.fd, e.name)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EXDEV):
		return false, nil
	case err != nil:
		return false, d.fail("open", e.name, err)
	}
	defer unix.Close(fd)
	if err := l.set(fd); err != nil && !errors.Is(err, unix.ENOENT) {
		return false, d.fail("label", e.name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, d.fail("stat", e.name, err)
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// openEntry gives a handle of an entry, of a link itself, but of no other mount.
func openEntry(at int, name string) (int, error) {
	return openat2.Open(at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC,
		unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
}

// set labels what a handle stands for. The calls on descriptors do not take handles, but
// the name that /proc has for one leads to its file, also if that is a link.
func (l *labeller) set(fd int) error {
	name := "/proc/self/fd/" + strconv.Itoa(fd)
	n, err := unix.Getxattr(name, labelName, l.known)
	if err == nil && bytes.Equal(bytes.TrimRight(l.known[:n], "\x00"), l.label) {
		return nil
	}
	return unix.Setxattr(name, labelName, l.label, 0)
}
