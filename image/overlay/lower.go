package overlay

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lower is one lower directory ready to be given to overlayfs.
type lower struct {
	path string
	fd   int    // of an id-mapped clone, else -1
	at   string // where the clone had to be attached, "" if nowhere
}

// add gives it to the file system context.
func (l *lower) add(fs int) error {
	if l.fd >= 0 && l.at == "" {
		return unix.FsconfigSetFd(fs, "lowerdir+", l.fd)
	}
	if l.at != "" {
		return unix.FsconfigSetString(fs, "lowerdir+", l.at)
	}
	return unix.FsconfigSetString(fs, "lowerdir+", l.path)
}

// openLowers prepares the lower directories; with a user namespace each becomes an
// id-mapped clone, which goes when the returned function is called: overlayfs keeps
// its own.
func (c *Config) openLowers() ([]lower, func(), error) {
	lowers := make([]lower, 0, len(c.Lower))
	closeAll := func() {
		for _, l := range lowers {
			if l.fd >= 0 {
				unix.Close(l.fd) // a mount, no data
			}
		}
	}
	for _, p := range c.Lower {
		l := lower{path: p, fd: -1}
		if c.UserNS != nil {
			fd, err := idmapped(p, c.UserNS)
			if err != nil {
				closeAll()
				return nil, nil, fmt.Errorf("id-map %s: %w", p, err)
			}
			l.fd = fd
		}
		lowers = append(lowers, l)
	}
	return lowers, closeAll, nil
}

// idmapped gives a detached clone of the directory's mount with the mapping of ns.
func idmapped(path string, ns *os.File) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr)
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w (the file system of the layers does not support id-mapped mounts)", err)
	}
	if err != nil {
		return -1, errors.Join(os.NewSyscallError("mount_setattr", err), unix.Close(fd))
	}
	return fd, nil
}
