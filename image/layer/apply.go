package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Names inside a layer directory; see the package documentation.
const (
	FSDir      = "fs"
	journal    = "journal"
	shadowsDir = "shadow"
	// impliedName is the list of directories the archive only implied, from [Apply] to
	// [Inherit]: there may be millions, too many to be kept in memory.
	impliedName = "implied"
	// whiteoutsName is the list of whiteouts that were made, likewise.
	whiteoutsName = "whiteouts"
)

// Result tells what [Apply] made.
type Result struct {
	Size     int64 // of the uncompressed archive, in bytes
	Entries  int   // in the archive
	Replaced int   // files the archive wrote more than once
	// Implied is how many directories, apart from the root, the archive uses but does
	// not describe. They are listed on disk, for [Inherit].
	Implied     int
	RootImplied bool // the archive does not describe the root directory
	Whiteouts   int  // made of its entries; listed on disk too
}

// Apply unpacks the tar stream r into the new directory dirPath and reads r to its
// end, unless ctx ends before. On an error the directory is left for the caller to
// remove.
func Apply(ctx context.Context, dirPath string, r io.Reader, limits Limits) (Result, error) {
	limits = limits.withDefaults()
	fs := filepath.Join(dirPath, FSDir)
	if err := makeDirs(dirPath, fs); err != nil {
		return Result{}, err
	}
	j, err := createJournal(filepath.Join(dirPath, journal))
	if err != nil {
		return Result{}, err
	}
	a := &applier{
		ctx: ctx, rec: newRecorder(r, j, limits.Bytes), j: j, limits: limits,
		implied: pathList{name: filepath.Join(dirPath, impliedName)}, whiteouts: pathList{name: filepath.Join(dirPath, whiteoutsName)},
		shadows: filepath.Join(dirPath, shadowsDir), shadowFd: -1,
	}
	a.tree, err = openTree(fs, a.imply)
	if err == nil {
		a.limited, a.steps = true, firstSteps
		err = errors.Join(a.run(), a.close())
	}
	err = errors.Join(err, j.close(err == nil))
	return a.result, err
}

func makeDirs(paths ...string) error {
	for _, p := range paths {
		if err := os.Mkdir(p, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

type applier struct {
	*tree
	ctx      context.Context
	rec      *recorder
	j        *journalWriter
	tr       *tar.Reader
	limits   Limits
	result   Result
	shadows  string
	shadowFd int
	moved    int // bytes of the names of what is in shadows
	implied  pathList
	// whiteouts are those made, some of which may have been replaced since.
	whiteouts pathList
	dirs      dirTimes
	logical   int64 // bytes of file content, holes included
	hasRoot   bool  // the archive describes the root directory
}

func (a *applier) run() error {
	buf := blocks.Get().(*[]byte)
	defer blocks.Put(buf)
	a.tr = tar.NewReader(a.rec)
	for {
		hdr, err := a.tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return a.explain("read the archive", err)
		}
		a.result.Entries++
		if err := a.count(); err != nil {
			return err
		}
		if err := a.entry(hdr, *buf); err != nil {
			return a.explain(fmt.Sprintf("unpack %.200q", hdr.Name), err)
		}
	}
	if err := a.rec.drain(); err != nil {
		return a.explain("read the archive", err)
	}
	a.result.Size, a.result.RootImplied = a.rec.total, !a.hasRoot
	return a.setDirTimes()
}

// count bounds what the archive makes of the disk: a directory that is only implied
// takes an inode as an entry does.
func (a *applier) count() error {
	if a.result.Entries+a.result.Implied > a.limits.Entries {
		return tooMany("entries in one layer, counting the directories that paths imply", int64(a.limits.Entries))
	}
	a.steps += stepsPerEntry
	return a.ctx.Err()
}

// explain marks what only the archive can be the cause of.
func (a *applier) explain(what string, err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) {
		return fmt.Errorf("%w: %s: %w", ErrArchive, what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (a *applier) close() error {
	if a.shadowFd >= 0 {
		unix.Close(a.shadowFd) // O_PATH: nothing can be lost by closing
	}
	return errors.Join(a.implied.close(), a.whiteouts.close(), a.tree.close())
}

// imply notes a directory that is only named as part of a longer path.
func (a *applier) imply(real string) error {
	a.result.Implied++
	if err := a.count(); err != nil {
		return err
	}
	return a.implied.add(real)
}

func (a *applier) entry(hdr *tar.Header, buf []byte) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if len(hdr.Name) > unix.PathMax || len(hdr.Linkname) > unix.PathMax {
		return fmt.Errorf("%w: name of more than %d bytes", ErrArchive, unix.PathMax)
	}
	name := clean(hdr.Name)
	if name == "" {
		return a.rootEntry(hdr)
	}
	p, base, err := a.parent(name, true)
	if err != nil {
		return err
	}
	if isWhiteout(base) {
		return a.whiteout(p, base)
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeRegA, tar.TypeCont, tar.TypeGNUSparse: //nolint:staticcheck // old archives have TypeRegA
		return a.file(p, base, hdr, buf)
	case tar.TypeDir:
		return a.directory(p, base, hdr)
	case tar.TypeSymlink:
		return a.symlink(p, base, hdr)
	case tar.TypeLink:
		return a.hardlink(p, base, hdr)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return a.node(p, base, hdr)
	}
	return fmt.Errorf("%w: entries of type %q are not supported", ErrArchive, hdr.Typeflag)
}

func (a *applier) rootEntry(hdr *tar.Header) error {
	if hdr.Typeflag != tar.TypeDir {
		return fmt.Errorf("%w: the root is not a directory", ErrArchive)
	}
	a.hasRoot = true
	d, err := a.resolve("", false)
	if err != nil {
		return err
	}
	if err := setAttrs(d.fd, ".", hdr); err != nil {
		return err
	}
	return a.laterTimes("", hdr)
}

// laterTimes keeps the times of a directory until its content is complete.
func (a *applier) laterTimes(real string, hdr *tar.Header) error {
	a.dirs.add(real, timesOf(hdr))
	if len(a.dirs.list) < dirMemory {
		return nil
	}
	return a.setDirTimes()
}

func (a *applier) setDirTimes() error {
	return a.dirs.each(func(real string, times [2]unix.Timespec) error {
		fd, err := exact(a.root, real, unix.O_PATH)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return a.ctx.Err() // replaced by something else since
		}
		if err != nil {
			return err
		}
		defer unix.Close(fd) // O_PATH: nothing can be lost by closing
		if err := unix.UtimesNanoAt(fd, ".", times[:], 0); err != nil {
			return &os.PathError{Op: "utimensat", Path: shortened(real), Err: err}
		}
		return a.ctx.Err()
	})
}

func timesOf(hdr *tar.Header) [2]unix.Timespec {
	m := timespec(hdr.ModTime)
	at := m
	if !hdr.AccessTime.IsZero() {
		at = timespec(hdr.AccessTime)
	}
	return [2]unix.Timespec{at, m}
}

// timespec clamps to what every file system can keep.
func timespec(t time.Time) unix.Timespec {
	sec := t.Unix()
	if sec < 0 || t.IsZero() {
		return unix.Timespec{}
	}
	return unix.Timespec{Sec: min(sec, 1<<34-1), Nsec: int64(t.Nanosecond())}
}
