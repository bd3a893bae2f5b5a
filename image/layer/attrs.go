package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	opaqueXattr = "trusted.overlay.opaque"
	capXattr    = "security.capability"
)

// setFileAttrs sets owner, mode and xattrs of an open regular file, in this order, because
// chown(2) clears the setuid bit and the capabilities.
func setFileAttrs(fd int, hdr *tar.Header) error {
	if !isOwnedByRoot(hdr) {
		if err := unix.Fchown(fd, hdr.Uid, hdr.Gid); err != nil {
			return wrapAttr("fchown", err)
		}
	}
	if err := unix.Fchmod(fd, uint32(hdr.Mode)&0o7777); err != nil {
		return wrapAttr("fchmod", err)
	}
	return eachXattr(hdr, func(key string, value []byte) error {
		return unix.Fsetxattr(fd, key, value, 0)
	})
}

// setAttrs does the same for a new file of any type at base in the directory dirfd.
func setAttrs(dirfd int, base string, hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeDir || !isOwnedByRoot(hdr) {
		if err := unix.Fchownat(dirfd, base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return wrapAttr("fchownat", err)
		}
	}
	if hdr.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(dirfd, base, uint32(hdr.Mode)&0o7777, 0); err != nil {
			return wrapAttr("fchmodat", err)
		}
	}
	if len(hdr.PAXRecords) == 0 {
		return nil
	}
	return eachXattr(hdr, func(key string, value []byte) error {
		return setXattrAt(dirfd, base, key, value)
	})
}

// setXattrAt sets an extended attribute of base itself, also if that is a symbolic link.
func setXattrAt(dirfd int, base, key string, value []byte) error {
	fd, err := unix.Openat(dirfd, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) // O_PATH: nothing can be lost by closing
	return unix.Setxattr("/proc/self/fd/"+strconv.Itoa(fd), key, value, 0)
}

// mayBring reports whether an image may set an extended attribute. Attributes of overlayfs
// are refused because they control how layers are merged. The labels of security modules
// (SELinux, Smack, AppArmor) are refused because the node sets them: with a label of its
// choice a file of the image could be executed or read by processes for which the policy
// forbids that. Signatures of IMA are accepted, since they grant nothing.
func mayBring(key string) bool {
	switch {
	case key == capXattr || key == "security.ima":
		return true
	case strings.HasPrefix(key, "security."), strings.HasPrefix(key, "trusted."), strings.HasPrefix(key, "user.overlay."):
		return false
	}
	return key != ""
}

// eachXattr calls set for each extended attribute that an image may set. If the filesystem
// or a security module refuses an attribute, it is skipped, but not a file capability:
// without it a program of the image would fail later, for a reason that is hard to find.
func eachXattr(hdr *tar.Header, set func(key string, value []byte) error) error {
	for k, v := range hdr.PAXRecords {
		key, ok := strings.CutPrefix(k, xattrPrefix)
		if !ok || !mayBring(key) {
			continue
		}
		err := set(key, []byte(v))
		refused := errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EACCES)
		if err != nil && (key == capXattr || !refused) {
			return fmt.Errorf("set xattr %.100q: %w", key, tooLarge(err))
		}
	}
	return nil
}

// tooLarge wraps the kernel's error about an attribute that is too large in [ErrArchive].
func tooLarge(err error) error {
	if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ERANGE) {
		return fmt.Errorf("%w: %w", ErrArchive, err)
	}
	return err
}

func setOpaque(dirfd int, base string) error {
	return wrapAttr("setxattr "+opaqueXattr, setXattrAt(dirfd, base, opaqueXattr, []byte("y")))
}
