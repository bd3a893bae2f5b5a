package layer

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Names by which an archive says what of the layers below is gone (OCI image
// specification, layer.md).
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh." // of aufs itself
	whiteoutOpaque = ".wh..wh..opq"
)

func isWhiteout(base string) bool { return strings.HasPrefix(base, whiteoutPrefix) }

// whiteout makes the overlayfs form of a whiteout entry.
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
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	// The archive has an entry of that name too, which already hides the one
	// below; only a directory would be merged with it.
	var st unix.Stat_t
	if err := unix.Fstatat(p.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return setOpaque(p.fd, name)
	}
	return nil
}
