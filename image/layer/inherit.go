package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLookups is how many lookups in the layers below [Inherit] makes for one layer. A lookup
// counts once more for every 16 directories of its path. It is a few minutes of work.
const maxLookups = 50_000_000

// Below are the layers below a layer. It has an open directory of each, so a layer may be
// renamed meanwhile. The zero value has no layers.
type Below struct {
	roots []int // lowest first; O_PATH
}

// Push adds the layer at dirPath as the topmost one.
func (b *Below) Push(dirPath string) error {
	fd, err := openRoot(filepath.Join(dirPath, FSDir))
	if err != nil {
		return err
	}
	b.roots = append(b.roots, fd)
	return nil
}

// Close closes the directories.
func (b *Below) Close() {
	for _, fd := range b.roots {
		unix.Close(fd) // O_PATH: nothing can be lost by closing
	}
	b.roots = nil
}

// Inherit completes the layer at dirPath according to the layers below it. Directories
// without an entry in the archive get owner, mode, times and xattrs of the same directory
// below, because overlayfs shows the attributes of the topmost one; if there is none below,
// they stay as they are. Whiteouts in a directory that has no counterpart below are removed;
// dropped is their number, also beside an error. res is the result of [Apply], whose lists
// on disk are removed. If ctx ended it, Inherit can be called again.
func Inherit(ctx context.Context, dirPath string, res Result, below *Below) (dropped int, err error) {
	own, err := openRoot(filepath.Join(dirPath, FSDir))
	if err != nil {
		return 0, err
	}
	defer unix.Close(own) // O_PATH: nothing can be lost by closing
	in := &inheritor{ctx: ctx, own: own, below: below.roots, left: maxLookups}
	if len(below.roots) > 0 || res.Whiteouts > 0 {
		err = in.run(dirPath, res)
	}
	if err != nil {
		return in.dropped, err
	}
	for name, n := range map[string]int{impliedName: res.Implied, whiteoutsName: res.Whiteouts} {
		if n > 0 {
			err = errors.Join(err, os.Remove(filepath.Join(dirPath, name)))
		}
	}
	return in.dropped, err
}

func (in *inheritor) run(dirPath string, res Result) error {
	if err := in.begin(); err != nil {
		return err
	}
	if res.Whiteouts > 0 {
		if err := eachPath(filepath.Join(dirPath, whiteoutsName), in.dropWhiteout); err != nil {
			return err
		}
	}
	if res.RootImplied {
		if err := in.inherit(""); err != nil {
			return err
		}
	}
	if res.Implied == 0 || len(in.below) == 0 {
		return nil
	}
	return eachPath(filepath.Join(dirPath, impliedName), in.inherit)
}

// inheritor is one run of [Inherit]. It processes the directories in the order of the
// archive and remembers the directories above the present one, so that each directory takes
// the lookups of one name only.
type inheritor struct {
	ctx   context.Context
	own   int   // the layer's root
	below []int // roots, lowest first
	at    []level
	left  int // number of lookups that may still be made
	// dropped is the number of whiteouts that were removed.
	dropped int
	value   []byte
}

// level is one of the directories above the present one, or that itself.
type level struct {
	name string
	// from are the layers below whose directory of this name is merged with this one, as
	// indexes into below, topmost first.
	from []int
	gone bool // the layer has no such directory: a later entry replaced it
}

// begin sets the level of the root directory.
func (in *inheritor) begin() error {
	all := make([]int, 0, len(in.below))
	for i := len(in.below) - 1; i >= 0; i-- {
		all = append(all, i)
	}
	root, err := in.enter(level{from: all}, "")
	in.at = []level{root}
	return err
}

func (in *inheritor) inherit(name string) error {
	if err := in.goTo(name); err != nil {
		return err
	}
	top := in.at[len(in.at)-1]
	if top.gone || len(top.from) == 0 {
		return nil
	}
	to, err := exact(in.own, name, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(to) // nothing is written
	from, err := exact(in.below[top.from[0]], name, unix.O_RDONLY)
	if err != nil {
		return err
	}
	return errors.Join(in.copyAttrs(from, to), unix.Close(from))
}

// goTo sets the levels to those of the directories that lead to name.
func (in *inheritor) goTo(name string) error {
	if name == "" {
		in.at = in.at[:1]
		return nil
	}
	elems := strings.Split(name, "/")
	same, end := 0, 0 // number of elements, and of bytes of name, that the present levels share
	for same < min(len(elems), len(in.at)-1) && in.at[same+1].name == elems[same] {
		end += len(elems[same]) + 1
		same++
	}
	in.at = in.at[:same+1]
	for _, e := range elems[same:] {
		end += len(e) + 1
		l, err := in.enter(in.at[len(in.at)-1], name[:end-1])
		if err != nil {
			return err
		}
		l.name = e
		in.at = append(in.at, l)
	}
	return nil
}

// enter returns the level of the directory name, whose parent directory is the level up.
func (in *inheritor) enter(up level, name string) (level, error) {
	if up.gone {
		return level{gone: true}, nil
	}
	is, opaque, err := in.look(in.own, name)
	if err != nil || is != unix.S_IFDIR {
		return level{gone: true}, err
	}
	if opaque { // it is not merged with directories below
		return level{}, nil
	}
	var l level
	for _, i := range up.from {
		is, opaque, err := in.look(in.below[i], name)
		if err != nil {
			return l, err
		}
		if is == 0 {
			continue
		}
		if is != unix.S_IFDIR { // a whiteout or a file hides the layers further below
			break
		}
		if l.from = append(l.from, i); opaque {
			break
		}
	}
	return l, nil
}

// look returns the type of name below root: S_IFDIR for a directory, 0 if there is nothing,
// another value for anything else; and whether a directory is opaque.
func (in *inheritor) look(root int, name string) (is int, opaque bool, err error) {
	if in.left -= 1 + strings.Count(name, "/")/16; in.left < 0 {
		return 0, false, fmt.Errorf("%w: the directories it does not describe need more than %d look-ups in the layers below; describe directories in the layer, or squash the image", ErrArchive, maxLookups)
	}
	if err := in.ctx.Err(); err != nil {
		return 0, false, err
	}
	fd, err := exact(root, name, unix.O_RDONLY)
	switch {
	case errors.Is(err, unix.ENOENT):
		return 0, false, nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return unix.S_IFREG, false, nil
	case err != nil:
		return 0, false, err
	}
	n, err := unix.Fgetxattr(fd, opaqueXattr, make([]byte, 1))
	unix.Close(fd) // nothing is written
	return unix.S_IFDIR, err == nil && n == 1, nil
}

func (in *inheritor) copyAttrs(from, to int) error {
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
	if err := in.copyXattrs(from, to); err != nil {
		return err
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	return unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(to), times, 0)
}

func (in *inheritor) copyXattrs(from, to int) error {
	list := make([]byte, 4096)
	n, err := unix.Flistxattr(from, list)
	if err != nil || n == 0 {
		return nil // none, more than any directory has, or not supported by the filesystem
	}
	if in.value == nil {
		in.value = make([]byte, 64<<10)
	}
	for _, key := range strings.Split(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if !mayBring(key) {
			continue
		}
		m, err := unix.Fgetxattr(from, key, in.value)
		if err != nil {
			continue
		}
		if err := unix.Fsetxattr(to, key, in.value[:m], 0); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	return nil
}
