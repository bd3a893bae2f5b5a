package dirtree

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// Usage is what a tree takes of the disk.
type Usage struct {
	Bytes  uint64 // allocated, as du counts them
	Inodes uint64 // the root included, a file of several names once
}

// manyLinks is how many files of several names are remembered, some 15 MiB.
const manyLinks = 1 << 18

// Measure adds up a directory with all below it. A mount point is not counted, nor
// is what vanishes or is moved away while the walk is on its way; what is moved
// ahead of it is counted twice. Files with several names are told apart
// while fewer than 262,144 of them wait for a further name; after that a name of a
// new one counts as its part of the file, which comes to the same when all names
// are in the tree. With an error, such as the end
// of ctx, Usage is what was counted until then; the error wraps [fs.ErrNotExist]
// when there is no such directory.
func Measure(ctx context.Context, path string) (Usage, error) {
	fd, err := openRoot(path)
	if err != nil {
		return Usage{}, err
	}
	c := counter{links: map[fileID]uint64{}, manyLinks: manyLinks}
	err = newWalk(&c).run(ctx, fd)
	c.Inodes += (c.parts + 1<<31) >> 32
	return c.Usage, err
}

type fileID struct{ dev, ino uint64 }

type counter struct {
	Usage
	links     map[fileID]uint64 // how many further names of a file are still to come
	manyLinks int
	full      bool   // there were more
	parts     uint64 // of inodes, in 2^-32
}

func (c *counter) opened(st *unix.Stat_t) { c.add(st) }

func (c *counter) tooDeep(*dir) (cut bool, err error) { return false, nil }

func (c *counter) add(st *unix.Stat_t) {
	c.Bytes += uint64(st.Blocks) * 512
	c.Inodes++
}

func (c *counter) entry(d *dir, e entry) (enter bool, err error) {
	if e.kind == unix.DT_DIR {
		return true, nil // counted when it is opened
	}
	var st unix.Stat_t
	err = unix.Fstatat(d.fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err != nil:
		return false, d.fail("stat", e.name, err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return true, nil
	case st.Dev != d.dev: // a file mounted on it
		return false, nil
	case st.Nlink > 1:
		c.link(&st)
	default:
		c.add(&st)
	}
	return false, nil
}

// link counts a name of a file that has more than one.
func (c *counter) link(st *unix.Stat_t) {
	id := fileID{st.Dev, st.Ino}
	names := uint64(st.Nlink) //nolint:unconvert // it is narrower on arm64
	left, known := c.links[id]
	switch {
	case known && left > 1:
		c.links[id] = left - 1
	case known:
		delete(c.links, id) // all its names were seen
	case !c.full && len(c.links) < c.manyLinks:
		c.links[id] = names - 1
		c.add(st)
	default: // from now on for all new ones: of this one the first names count as parts
		c.full = true
		c.Bytes += uint64(st.Blocks) * 512 / names
		c.parts += 1 << 32 / names
	}
}
