package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// lower is one lower directory ready to be given to overlayfs.
type lower struct {
	path string
	fd   int  // of an id-mapped clone, else -1
	done bool // the clone is attached
}

// add gives it to the file system context. Where that takes only paths (before
// Linux 6.13), a clone is attached at spot first.
func (l *lower) add(fs int, spot string) error {
	if l.fd < 0 {
		return unix.FsconfigSetString(fs, "lowerdir+", l.path)
	}
	err := unix.FsconfigSetFd(fs, "lowerdir+", l.fd)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EBADF) { // which one depends on the version
		return err
	}
	if err := l.attach(spot); err != nil {
		return err
	}
	return unix.FsconfigSetString(fs, "lowerdir+", spot)
}

// attach gives the clone a path.
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

// spots is where the clones for a mount are attached: its name follows from the
// target, so that what a crash leaves is found.
func spots(target string) string { return target + ".lower" }

func spot(target string, i int) string {
	return filepath.Join(spots(target), strconv.FormatInt(int64(i), 36))
}

// detachSpots takes all clones away; overlayfs keeps clones of its own. Directories
// are removed one by one: removing a tree would reach into a layer if one stayed.
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
