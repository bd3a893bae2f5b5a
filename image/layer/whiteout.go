package layer

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Names of entries that delete files of the layers below (OCI image specification,
// layer.md, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh." // of aufs itself
	whiteoutOpaque = ".wh..wh..opq"
)

func isWhiteout(base string) bool { return strings.HasPrefix(base, whiteoutPrefix) }

// whiteout converts a whiteout entry to overlayfs's form of it.
func (a *applier) whiteout(p *dir, base string) error {
	if base == whiteoutOpaque {
		return setOpaque(p.fd, ".")
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return nil
	}
	name := strings.TrimPrefix(base, whiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("%w: a whiteout of nothing", ErrArchive)
	}
	err := unix.Mknodat(p.fd, name, unix.S_IFCHR, 0)
	if err == nil {
		a.result.Whiteouts++
		return a.whiteouts.add(join(p.real, name))
	}
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	// If the archive has an entry of this name too, that hides the one below already. Only a
	// directory would be merged with one below, and is made opaque.
	var st unix.Stat_t
	if err := unix.Fstatat(p.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return setOpaque(p.fd, name)
	}
	return nil
}

func isWhiteoutNode(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// dropWhiteout removes a whiteout from a directory that has no counterpart below. In such a
// directory overlayfs lists a whiteout as a file, which can't be opened, so that programs
// which walk the directory fail. The directory keeps its times.
func (in *inheritor) dropWhiteout(name string) error {
	d, base := path.Split(name)
	d = strings.TrimSuffix(d, "/")
	if err := in.goTo(d); err != nil {
		return err
	}
	if top := in.at[len(in.at)-1]; top.gone || len(top.from) > 0 {
		return nil
	}
	fd, err := exact(in.own, d, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd) // nothing is written
	var st, up unix.Stat_t
	err = unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) || err == nil && !isWhiteoutNode(&st) {
		return nil // a later entry replaced it, or an earlier call removed it
	}
	if err = errors.Join(err, unix.Fstat(fd, &up)); err != nil {
		return err
	}
	if err := unix.Unlinkat(fd, base, 0); err != nil {
		return err
	}
	in.dropped++
	times := []unix.Timespec{up.Atim, up.Mtim}
	return unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), times, 0)
}
