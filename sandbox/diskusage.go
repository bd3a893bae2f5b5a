package sandbox

import (
	"os"

	"golang.org/x/sys/unix"
)

// heldLevels is how deep a walk keeps a descriptor of each level above it.
const heldLevels = 32

// diskUsage adds up allocated bytes and inodes of a tree, hard links once. What
// goes while it walks is left out.
//
// It walks by descriptors, few of them: a path has an end (PATH_MAX) where a tree
// has none, so a container could hide files below it from who goes by paths.
func diskUsage(dir string) (bytes, inodes uint64) {
	d := diskCount{seen: make(map[uint64]struct{})}
	var st unix.Stat_t
	fd, err := openDir(unix.AT_FDCWD, dir)
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err == nil {
		d.add(&st)
		fd = d.walk(fd, st.Ino, 0)
	}
	closeDir(fd)
	return d.bytes, d.inodes
}

type diskCount struct {
	bytes, inodes uint64
	seen          map[uint64]struct{} // files of several names
}

func (d *diskCount) add(st *unix.Stat_t) {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if _, dup := d.seen[st.Ino]; dup {
			return
		}
		d.seen[st.Ino] = struct{}{}
	}
	d.bytes += uint64(st.Blocks) * 512
	d.inodes++
}

// walk counts what is in the directory fd, whose inode is ino, and returns a
// descriptor of it in fd's place; -1 when it was moved away meanwhile.
func (d *diskCount) walk(fd int, ino uint64, depth int) int {
	for name, sub := range d.entries(fd) {
		child, err := openDir(fd, name)
		if err != nil {
			continue
		}
		if depth < heldLevels {
			closeDir(d.walk(child, sub, depth+1))
			continue
		}
		closeDir(fd)
		child = d.walk(child, sub, depth+1)
		fd = parentOf(child, ino)
		closeDir(child)
		if fd < 0 {
			break
		}
	}
	return fd
}

// entries counts what is in a directory and returns its directories with their
// inodes.
func (d *diskCount) entries(fd int) map[string]uint64 {
	own, err := openDir(fd, ".") // with an offset of its own, for os.File to close
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(own), "")
	defer func() { _ = f.Close() }() // only read
	names, _ := f.Readdirnames(-1)   // what could be read counts
	sub := make(map[string]uint64)
	for _, name := range names {
		var st unix.Stat_t
		if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue
		}
		d.add(&st)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			sub[name] = st.Ino
		}
	}
	return sub
}

// parentOf opens the directory above fd if it is the one of inode ino, else -1.
func parentOf(fd int, ino uint64) int {
	if fd < 0 {
		return -1
	}
	var st unix.Stat_t
	up, err := openDir(fd, "..")
	if err != nil {
		return -1
	}
	if unix.Fstat(up, &st) != nil || st.Ino != ino {
		closeDir(up)
		return -1
	}
	return up
}

func openDir(at int, name string) (int, error) {
	return unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

func closeDir(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd) // only read
	}
}
