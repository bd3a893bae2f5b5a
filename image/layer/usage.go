package layer

import (
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Usage gives what the directory takes of the disk, as du counts it: allocated
// bytes and inodes, itself included, a file with several names once. A file that
// vanishes meanwhile is not counted.
func Usage(path string) (bytes, inodes uint64, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	u := usage{seen: map[[2]uint64]struct{}{}, buf: make([]byte, 64<<10)}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, 0, errors.Join(err, unix.Close(fd))
	}
	u.dev = st.Dev
	u.add(&st)
	if err := u.dir(fd); err != nil {
		return 0, 0, &os.PathError{Op: "count", Path: path, Err: err}
	}
	return u.bytes, u.inodes, nil
}

type usage struct {
	bytes, inodes uint64
	dev           uint64
	seen          map[[2]uint64]struct{} // files of several names
	buf           []byte
}

func (u *usage) add(st *unix.Stat_t) {
	u.bytes += uint64(st.Blocks) * 512
	u.inodes++
}

// dir counts what is in fd and closes it. One descriptor is open for each level.
func (u *usage) dir(fd int) error {
	defer unix.Close(fd) // nothing is written
	var sub []string
	for {
		n, err := unix.Getdents(fd, u.buf)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if sub, err = u.entries(fd, u.buf[:n], sub); err != nil {
			return err
		}
	}
	for _, name := range sub {
		child, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return err
		}
		if err := u.dir(child); err != nil {
			return err
		}
	}
	return nil
}

// entries counts the directory entries in buf and appends the directories to sub.
func (u *usage) entries(fd int, buf []byte, sub []string) ([]string, error) {
	for len(buf) > 0 {
		size := binary.NativeEndian.Uint16(buf[16:]) // struct linux_dirent64
		name := buf[19:size]
		buf = buf[size:]
		if i := indexNul(name); i >= 0 {
			name = name[:i]
		}
		if s := string(name); s != "." && s != ".." {
			isDir, err := u.entry(fd, s)
			if err != nil {
				return sub, err
			}
			if isDir {
				sub = append(sub, s)
			}
		}
	}
	return sub, nil
}

func (u *usage) entry(fd int, name string) (isDir bool, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil || st.Dev != u.dev {
		return false, err
	}
	isDir = st.Mode&unix.S_IFMT == unix.S_IFDIR
	if !isDir && st.Nlink > 1 {
		key := [2]uint64{st.Dev, st.Ino}
		if _, ok := u.seen[key]; ok {
			return false, nil
		}
		u.seen[key] = struct{}{}
	}
	u.add(&st)
	return isDir, nil
}

func indexNul(b []byte) int {
	for i, c := range b {
		if c == 0 {
			return i
		}
	}
	return -1
}
