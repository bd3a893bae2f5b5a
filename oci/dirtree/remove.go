package dirtree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Remove deletes whatever is at path, with all below it; nothing there is no
// error. It stops at the first entry that can't be deleted, such as a mount point
// (EBUSY) or one with the immutable flag (EPERM), and names it. Ended by ctx or an
// error it has deleted a part; repeated, it goes on.
func Remove(ctx context.Context, path string) error {
	r := remover{limit: deepest}
	for {
		before := r.removed
		err := unlink(unix.AT_FDCWD, path, unix.DT_DIR)
		switch {
		case err == nil || errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.ENOTEMPTY):
			return &os.PathError{Op: "remove", Path: path, Err: err}
		}
		fd, err := openRoot(path)
		if err != nil {
			return err
		}
		if err := r.empty(ctx, fd); err != nil {
			return err
		}
		if r.removed == before {
			return &os.PathError{Op: "remove", Path: path, Err: unix.ENOTEMPTY}
		}
	}
}

type remover struct {
	root    int
	removed uint64
	moved   uint64 // subtrees that were moved up to the root
	limit   int
}

// empty removes what is below the directory fd, which it closes.
func (r *remover) empty(ctx context.Context, fd int) error {
	r.root = fd
	w := newWalk(r)
	w.again, w.limit = true, r.limit
	return w.run(ctx, fd)
}

func (r *remover) opened(*unix.Stat_t) {}

// entry removes an entry; a directory that is not empty is gone into and looked at
// again. That must have changed something: else the walk would never end.
func (r *remover) entry(d *dir, e entry) (enter bool, err error) {
	err = unlink(d.fd, e.name, e.kind)
	switch {
	case err == nil:
		r.removed++
		return false, nil
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case !errors.Is(err, unix.ENOTEMPTY):
		return false, d.fail("remove", e.name, err)
	case d.went && d.removed == r.removed:
		return false, errBusy(d, e.name)
	}
	d.removed = r.removed
	return true, nil
}

// tooDeep moves the lower half of the way down to the root, from where it is removed
// later. Half of it, so that this is rare: to move a directory costs the kernel as
// much as it is deep.
func (r *remover) tooDeep(middle *dir) (cut bool, err error) {
	e := first(middle.rest)
	err = unix.EEXIST
	for errors.Is(err, unix.EEXIST) {
		r.moved++
		err = unix.Renameat2(middle.fd, e.name, r.root, ".deep-"+strconv.FormatUint(r.moved, 10), unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return false, middle.fail("move up", e.name, fmt.Errorf("what is below lies too deep to be removed in its place: %w", err))
	}
	r.removed++ // from where it was
	return true, nil
}

// unlink removes one entry, which kind may be wrong about. Of a directory with
// something in it the error is ENOTEMPTY.
func unlink(at int, name string, kind byte) error {
	flags := 0
	if kind == unix.DT_DIR {
		flags = unix.AT_REMOVEDIR
	}
	err := unix.Unlinkat(at, name, flags)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(at, name, flags^unix.AT_REMOVEDIR)
	}
	if errors.Is(err, unix.EEXIST) { // what some file systems say instead
		err = unix.ENOTEMPTY
	}
	return err
}
