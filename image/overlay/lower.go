package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// lower is a lower directory of an overlay mount, prepared by openLowers.
type lower struct {
	path string
	fd   int  // of the directory's id-mapped clone; -1 if there is no user namespace
	done bool // the clone is attached to a path
}

// add adds the directory to fs, a filesystem context of fsopen(2). Before Linux 6.13
// overlayfs takes lower directories only by path, so a clone is first attached at the
// directory spot.
func (l *lower) add(fs int, spot string) error {
	if l.fd < 0 {
		return unix.FsconfigSetString(fs, "lowerdir+", l.path)
	}
	err := unix.FsconfigSetFd(fs, "lowerdir+", l.fd)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EBADF) { // the kernel's version decides which
		return err
	}
	if err := l.attach(spot); err != nil {
		return err
	}
	return unix.FsconfigSetString(fs, "lowerdir+", spot)
}

// attach mounts the clone at the directory spot, which it makes.
func (l *lower) attach(spot string) error {
	if l.done {
		return nil
	}
	if err := os.MkdirAll(spot, 0o700); err != nil {
		return err
	}
	if err := unix.MoveMount(l.fd, "", unix.AT_FDCWD, spot, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return os.NewSyscallError("move_mount of a layer", err)
	}
	l.done = true
	return nil
}

// spots returns the directory in which the clones for a mount are attached. Its name
// follows from the target, so that Unmount finds the clones that a crash has left.
func spots(target string) string { return target + ".lower" }

func spot(target string, i int) string {
	return filepath.Join(spots(target), strconv.FormatInt(int64(i), 36))
}

// detachSpots unmounts all clones for a mount; overlayfs keeps clones of its own. It removes
// their directories with rmdir(2) one by one: a recursive removal would delete the files of
// a layer if its clone were still mounted.
func detachSpots(target string) error {
	dir := spots(target)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		p := filepath.Join(dir, e.Name())
		errs = append(errs, detach(p), os.Remove(p))
	}
	return errors.Join(append(errs, os.Remove(dir))...)
}

// openLowers prepares the lower directories of the mount. With a user namespace it makes an
// id-mapped clone of each. The function returned closes the clones, which overlayfs does
// not need after the mount: it keeps clones of its own.
func (c *Config) openLowers() ([]lower, func(), error) {
	lowers := make([]lower, 0, len(c.Lower))
	closeAll := func() {
		for _, l := range lowers {
			if l.fd >= 0 {
				unix.Close(l.fd) // the error says nothing about data
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

// idmapped returns a detached clone of the directory's mount with the ID mapping of the
// user namespace ns (mount_setattr(2), MOUNT_ATTR_IDMAP).
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
