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
	// impliedName is the list of the directories without an entry of their own in the
	// archive. It is kept on disk from [Apply] to [Inherit], because it can have millions
	// of elements.
	impliedName = "implied"
	// whiteoutsName is the list of the whiteouts that were made, kept on disk likewise.
	whiteoutsName = "whiteouts"
)

// Result says what [Apply] unpacked.
type Result struct {
	Size     int64 // of the uncompressed archive, in bytes
	Entries  int   // in the archive
	Replaced int   // how often an entry replaced an earlier one
	// Implied is the number of directories, without the root, that occur in paths of the
	// archive but have no entry of their own. They are listed on disk, for [Inherit].
	Implied     int
	RootImplied bool // the archive has no entry for the root directory
	Whiteouts   int  // number of whiteouts; they are listed on disk too
}

// Apply unpacks the uncompressed tar stream r into the new directory dirPath, in the form
// described in the package documentation, and reads r to its end, unless ctx ends before.
// After an error the caller removes the directory. Errors whose cause is the archive wrap
// [ErrArchive].
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
	moved    int // bytes of the names of the files in shadow/
	implied  pathList
	// whiteouts are the whiteouts that were made. Later entries may have replaced some.
	whiteouts pathList
	dirs      dirTimes
	logical   int64 // bytes of file content, with holes
	hasRoot   bool  // the archive has an entry for the root directory
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

// count checks the limits of the layer. A directory without an entry takes an inode like an
// entry, and counts as one.
func (a *applier) count() error {
	if a.result.Entries+a.result.Implied > a.limits.Entries {
		return tooMany("entries in one layer, counting the directories that paths imply", int64(a.limits.Entries))
	}
	a.steps += stepsPerEntry
	return a.ctx.Err()
}

// explain adds context to an error, and wraps it in [ErrArchive] if only the archive can be
// its cause.
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

// imply records a directory that was made because the path of an entry needs it.
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

// laterTimes stores the times of a directory, to be set when its content is complete.
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
			return a.ctx.Err() // a later entry has replaced the directory
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

// timespec converts t, limited to the range that every filesystem can store.
func timespec(t time.Time) unix.Timespec {
	sec := t.Unix()
	if sec < 0 || t.IsZero() {
		return unix.Timespec{}
	}
	return unix.Timespec{Sec: min(sec, 1<<34-1), Nsec: int64(t.Nanosecond())}
}
