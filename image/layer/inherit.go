package layer

import (
	"errors"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Inherit gives directories that the layer at dirPath only implied the owner, mode,
// times and xattrs they have in the layers below (their directories, topmost
// first): overlayfs shows the attributes of the topmost directory of a name. One
// that no layer below has stays as it is.
func Inherit(dirPath string, implied, below []string) error {
	if len(implied) == 0 || len(below) == 0 {
		return nil
	}
	own, err := openTree(filepath.Join(dirPath, FSDir), nil)
	if err != nil {
		return err
	}
	in := inheritor{own: own}
	defer in.close()
	for _, b := range below {
		t, err := openTree(filepath.Join(b, FSDir), nil)
		if err != nil {
			return err
		}
		in.below = append(in.below, t)
	}
	// From the bottom up: setting a child's times must not disturb its parent's.
	for i := len(implied) - 1; i >= 0; i-- {
		if err := in.inherit(implied[i]); err != nil {
			return err
		}
	}
	return nil
}

type inheritor struct {
	own   *tree
	below []*tree
}

func (in *inheritor) close() {
	for _, t := range append(in.below, in.own) {
		t.close() //nolint:errcheck // O_PATH: nothing can be lost by closing
	}
}

func (in *inheritor) inherit(name string) error {
	fd, err := in.own.exact(name)
	if err != nil || fd < 0 {
		return err // replaced by the archive since
	}
	defer unix.Close(fd) // nothing is written
	if in.own.hides(name) {
		return nil
	}
	for _, t := range in.below {
		src, err := t.exact(name)
		if err != nil {
			return err
		}
		if src >= 0 {
			err := copyAttrs(src, fd)
			return errors.Join(err, unix.Close(src))
		}
		if t.hides(name) || t.blocks(name) {
			return nil
		}
	}
	return nil
}

// exact opens the directory name without following any link; -1 when there is none.
func (t *tree) exact(name string) (int, error) {
	if name == "" {
		name = "."
	}
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	fd, err := unix.Openat2(t.root, name, &how)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		fd, err = t.exactWalk(name)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return -1, nil
	}
	return fd, err
}

func (t *tree) exactWalk(name string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(t.root, ".", flags, 0)
	for _, elem := range strings.Split(name, "/") {
		if err != nil {
			return -1, err
		}
		next, nerr := unix.Openat(fd, elem, flags, 0)
		unix.Close(fd) // nothing is written
		fd, err = next, nerr
	}
	return fd, err
}

// hides tells whether name or a directory above it is opaque in this tree, so that
// layers below do not show through.
func (t *tree) hides(name string) bool {
	for ; ; name = up(name) {
		if fd, err := t.exact(name); err == nil && fd >= 0 {
			n, err := unix.Fgetxattr(fd, opaqueXattr, make([]byte, 1))
			unix.Close(fd) // nothing is written
			if err == nil && n == 1 {
				return true
			}
		}
		if name == "" {
			return false
		}
	}
}

// blocks tells whether something that is no directory (a whiteout, a file) stands
// at name or above it.
func (t *tree) blocks(name string) bool {
	for ; name != ""; name = up(name) {
		fd, err := t.exact(up(name))
		if err != nil || fd < 0 {
			continue
		}
		var st unix.Stat_t
		err = unix.Fstatat(fd, path.Base(name), &st, unix.AT_SYMLINK_NOFOLLOW)
		unix.Close(fd) // nothing is written
		return err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR
	}
	return false
}

func up(name string) string {
	if d := path.Dir(name); d != "." {
		return d
	}
	return ""
}

func copyAttrs(from, to int) error {
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	if err := unix.Fchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	if err := copyXattrs(from, to); err != nil {
		return err
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	return unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(to), times, 0)
}

func copyXattrs(from, to int) error {
	list := make([]byte, 4096)
	n, err := unix.Flistxattr(from, list)
	if err != nil || n == 0 {
		return nil // none, more than a directory has, or not supported here
	}
	value := make([]byte, 64<<10)
	for _, key := range strings.Split(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if !mayBring(key) {
			continue
		}
		m, err := unix.Fgetxattr(from, key, value)
		if err != nil {
			continue
		}
		if err := unix.Fsetxattr(to, key, value[:m], 0); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	return nil
}
