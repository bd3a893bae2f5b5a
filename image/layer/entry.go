package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// xattrPrefix is the prefix of the PAX records with extended attributes.
const xattrPrefix = "SCHILY.xattr."

func (a *applier) file(p *dir, base string, hdr *tar.Header, buf []byte) error {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	if a.logical += hdr.Size; a.logical > a.limits.Bytes || a.logical < 0 {
		return tooMany("bytes in one layer", a.limits.Bytes)
	}
	perm := uint32(hdr.Mode) & 0o777
	fd, err := unix.Openat(p.fd, base, flags, perm)
	if errors.Is(err, unix.EEXIST) {
		if err = a.replace(p, base); err == nil {
			fd, err = unix.Openat(p.fd, base, flags, perm)
		}
	}
	if err != nil {
		return err
	}
	err = a.content(fd, join(p.real, base), hdr.Size, buf)
	if err == nil {
		err = setFileAttrs(fd, hdr)
	}
	if err == nil {
		times := timesOf(hdr)
		err = unix.UtimesNanoAt(p.fd, base, times[:], unix.AT_SYMLINK_NOFOLLOW)
	}
	return errors.Join(err, unix.Close(fd))
}

// content writes the entry's data to the file fd, with holes where the archive has them.
func (a *applier) content(fd int, real string, size int64, buf []byte) error {
	if room := int64(len(buf)); size < room {
		buf = buf[:max(size, 1):max(size, 1)]
	}
	var off, end int64
	for off < size {
		n, err := a.rec.fill(a.tr, buf)
		for _, f := range a.rec.frags {
			if werr := writeAt(fd, buf[f.off:f.off+f.n], off+int64(f.off)); werr != nil {
				return werr
			}
			end = off + int64(f.off+f.n)
			if jerr := a.j.addData(real, off+int64(f.off), int64(f.n)); jerr != nil {
				return jerr
			}
		}
		off += int64(n)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 {
			break
		}
	}
	if off != size {
		return io.ErrUnexpectedEOF
	}
	if end < size {
		return unix.Ftruncate(fd, size)
	}
	return nil
}

func writeAt(fd int, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func (a *applier) directory(p *dir, base string, hdr *tar.Header) error {
	err := unix.Mkdirat(p.fd, base, 0o755)
	if errors.Is(err, unix.EEXIST) {
		err = a.reuseDir(p, base)
	}
	if err != nil {
		return err
	}
	if err := setAttrs(p.fd, base, hdr); err != nil {
		return err
	}
	return a.laterTimes(join(p.real, base), hdr)
}

// reuseDir is called when base exists already. A directory is kept. Anything else is
// replaced by an opaque directory: the replaced entry would have hidden a directory of the
// layers below, so the new directory must not be merged with one.
func (a *applier) reuseDir(p *dir, base string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(p.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	if err := a.replace(p, base); err != nil {
		return err
	}
	if err := unix.Mkdirat(p.fd, base, 0o755); err != nil {
		return err
	}
	return setOpaque(p.fd, base)
}

func (a *applier) symlink(p *dir, base string, hdr *tar.Header) error {
	err := unix.Symlinkat(hdr.Linkname, p.fd, base)
	if errors.Is(err, unix.EEXIST) {
		if err = a.replace(p, base); err == nil {
			err = unix.Symlinkat(hdr.Linkname, p.fd, base)
		}
	}
	if errors.Is(err, unix.ENOENT) && hdr.Linkname == "" {
		return fmt.Errorf("%w: a symbolic link without a target", ErrArchive)
	}
	if err != nil {
		return err
	}
	if err := setAttrs(p.fd, base, hdr); err != nil {
		return err
	}
	times := timesOf(hdr)
	return unix.UtimesNanoAt(p.fd, base, times[:], unix.AT_SYMLINK_NOFOLLOW)
}

func (a *applier) hardlink(p *dir, base string, hdr *tar.Header) error {
	target := clean(hdr.Linkname)
	tp, tbase, err := a.parent(target, false)
	if errors.Is(err, unix.ENOENT) || target == "" || isWhiteout(tbase) {
		return fmt.Errorf("%w: hard link to %.200q, which is not in this layer", ErrArchive, hdr.Linkname)
	}
	if err != nil {
		return err
	}
	if tp.real == p.real && tbase == base {
		return nil // a link to itself
	}
	err = unix.Linkat(tp.fd, tbase, p.fd, base, 0)
	if errors.Is(err, unix.EEXIST) {
		err = a.relink(tp, tbase, p, base)
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: hard link to %.200q, which is not in this layer", ErrArchive, hdr.Linkname)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: hard link to %.200q, which is a directory", ErrArchive, hdr.Linkname)
	}
	return err
}

func (a *applier) relink(tp *dir, tbase string, p *dir, base string) error {
	var from, to unix.Stat_t
	if err := unix.Fstatat(tp.fd, tbase, &from, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if err := unix.Fstatat(p.fd, base, &to, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if from.Ino == to.Ino && from.Dev == to.Dev {
		return nil
	}
	if strings.HasPrefix(tp.real+"/", join(p.real, base)+"/") {
		return fmt.Errorf("%w: a hard link would replace the directory its target is in", ErrArchive)
	}
	tfd, err := unix.Openat(tp.fd, tbase, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(tfd) // O_PATH: nothing can be lost by closing
	if err := a.replace(p, base); err != nil {
		return err
	}
	return unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(tfd), p.fd, base, unix.AT_SYMLINK_FOLLOW)
}

func (a *applier) node(p *dir, base string, hdr *tar.Header) error {
	mode := uint32(hdr.Mode) & 0o777
	switch hdr.Typeflag {
	case tar.TypeChar:
		mode |= unix.S_IFCHR
	case tar.TypeBlock:
		mode |= unix.S_IFBLK
	case tar.TypeFifo:
		mode |= unix.S_IFIFO
	}
	dev := unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
	err := unix.Mknodat(p.fd, base, mode, int(dev))
	if errors.Is(err, unix.EEXIST) {
		if err = a.replace(p, base); err == nil {
			err = unix.Mknodat(p.fd, base, mode, int(dev))
		}
	}
	if err != nil {
		return err
	}
	if err := setAttrs(p.fd, base, hdr); err != nil {
		return err
	}
	times := timesOf(hdr)
	return unix.UtimesNanoAt(p.fd, base, times[:], unix.AT_SYMLINK_NOFOLLOW)
}

// replace removes what an earlier entry of this archive has made at base. Files with content
// are moved to the shadow directory, because the journal refers to them.
func (a *applier) replace(p *dir, base string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(p.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	isDir := false
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if base == "" || strings.HasPrefix(p.real, join(p.real, base)+"/") {
			return fmt.Errorf("%w: an entry replaces the directory it is in", ErrArchive)
		}
		isDir = true
	case unix.S_IFREG:
		if st.Size == 0 {
			return unix.Unlinkat(p.fd, base, 0)
		}
	case unix.S_IFLNK:
		err := unix.Unlinkat(p.fd, base, 0)
		a.forgetBut(p)
		return err
	default:
		return unix.Unlinkat(p.fd, base, 0)
	}
	return a.shadow(p, base, isDir)
}

func (a *applier) shadow(p *dir, base string, isDir bool) error {
	if a.shadowFd < 0 {
		if err := makeDirs(a.shadows); err != nil {
			return err
		}
		fd, err := unix.Open(a.shadows, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		a.shadowFd = fd
	}
	if a.result.Replaced++; a.result.Replaced > a.limits.Replaced {
		return tooMany("files written twice in one layer", int64(a.limits.Replaced))
	}
	if a.moved += len(p.real) + len(base); a.moved > movedMemory {
		return tooMany("bytes in the names of files written twice in one layer", movedMemory)
	}
	n := a.result.Replaced
	if err := unix.Renameat(p.fd, base, a.shadowFd, strconv.Itoa(n)); err != nil {
		return err
	}
	if isDir {
		a.forgetBut(p)
	}
	return a.j.addMoved(join(p.real, base), n)
}

// forgetBut closes the cached directories except keep, which is in use.
func (t *tree) forgetBut(keep *dir) {
	for p, d := range t.cache {
		if d != keep {
			unix.Close(d.fd) // O_PATH: nothing can be lost by closing
			delete(t.cache, p)
		}
	}
}

func join(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}

func isOwnedByRoot(hdr *tar.Header) bool { return hdr.Uid == 0 && hdr.Gid == 0 }

func wrapAttr(op string, err error) error {
	if err == nil {
		return nil
	}
	return os.NewSyscallError(op, err)
}
