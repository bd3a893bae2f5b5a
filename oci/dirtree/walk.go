package dirtree

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/oci/openat2"
)

const (
	// heldTop and heldLow are how many levels stay open below the root and above
	// the directory being read. A walk goes back and forth between the deepest
	// levels, and falls back on the top ones when a level was moved away.
	heldTop = 14
	heldLow = 16
	// deepest is how many levels in between a walk can come back from: 96 MiB of
	// memory.
	deepest = 4 << 20
	// bufferSize is how much of a directory is read at a time. Each held level may
	// keep so much.
	bufferSize = 32 << 10
)

// walk goes through a tree depth first.
type walk struct {
	visitor
	again  bool   // look at a directory's entry once more after having been in it
	top    []*dir // the first levels, the root first
	gone   levels // those that were closed meanwhile
	middle *dir   // the one of gone that is half as deep as the limit, still open
	low    []*dir // the deepest; the last one is being read
	buf    []byte // for reading entries
	limit  int    // of gone; see deepest
}

// visitor is what is done on a walk.
type visitor interface {
	// entry is called for each entry of d and says whether to go into it.
	entry(d *dir, e entry) (enter bool, err error)
	// opened is called for each directory that is gone into, the root included.
	opened(st *unix.Stat_t)
	// tooDeep is called when the walk can't go deeper. The walk went through the
	// first entry of middle.rest, which lies half way down, if it looks at entries
	// again. With cut it starts over from its top levels.
	tooDeep(middle *dir) (cut bool, err error)
}

// dir is an open directory.
type dir struct {
	fd int
	level
	rest     []byte // entries that were read and not yet looked at
	borrowed bool   // rest lies in the walk's buffer
	went     bool   // into the first entry of rest
	removed  uint64 // how much had been removed by then
}

// level is what identifies a directory, and how far its listing was read.
type level struct {
	dev, ino uint64
	pos      int64 // for lseek: behind the last entry that is done with
}

// entry is one entry of a directory.
type entry struct {
	name string
	kind byte  // DT_…
	next int64 // for lseek: behind it
	size int   // in the buffer
}

func newWalk(v visitor) *walk {
	return &walk{visitor: v, buf: make([]byte, bufferSize), limit: deepest}
}

// run walks through the tree below the directory fd, which it closes.
func (w *walk) run(ctx context.Context, fd int) error {
	defer w.close()
	root := &dir{fd: fd}
	w.top = append(w.top, root)
	if err := w.identify(root); err != nil {
		return err
	}
	for d := w.current(); d != nil; d = w.current() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := w.fill(d)
		switch {
		case errors.Is(err, io.EOF):
			err = w.leave()
		case err == nil:
			err = w.look(d)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// current is the directory being read; nil when the walk is over.
func (w *walk) current() *dir {
	for _, held := range [][]*dir{w.low, w.top} {
		if len(held) > 0 {
			return held[len(held)-1]
		}
	}
	return nil
}

// fill makes sure that d.rest holds an entry. The error is io.EOF at the end.
func (w *walk) fill(d *dir) error {
	if len(d.rest) > 0 {
		return nil
	}
	n, err := unix.Getdents(d.fd, w.buf)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Getdents(d.fd, w.buf)
	}
	if n == 0 && err == nil || errors.Is(err, unix.ENOENT) { // it was removed meanwhile
		return io.EOF
	}
	if err != nil {
		return d.fail("read directory", "", err)
	}
	d.rest, d.borrowed = w.buf[:n], true
	return nil
}

// look handles the first entry of d.rest.
func (w *walk) look(d *dir) error {
	e := first(d.rest)
	enter := false
	if e.name != "." && e.name != ".." {
		var err error
		if enter, err = w.entry(d, e); err != nil {
			return err
		}
	}
	if !enter || !w.again {
		d.rest, d.pos = d.rest[e.size:], e.next
	}
	if !enter {
		d.went = false
		return nil
	}
	d.went = true
	if w.gone.n < w.limit {
		return w.enter(d, e)
	}
	cut, err := w.tooDeep(w.middle)
	if cut {
		w.startOver()
	}
	return err
}

// startOver closes all but the top levels.
func (w *walk) startOver() {
	for _, d := range w.low {
		unix.Close(d.fd)
	}
	w.low, w.gone = nil, levels{}
	w.closeMiddle()
}

func (w *walk) closeMiddle() {
	if w.middle != nil {
		unix.Close(w.middle.fd)
		w.middle = nil
	}
}

// enter goes down into a directory. One that is none, or not there any more, or a
// mount point, is passed over.
func (w *walk) enter(d *dir, e entry) error {
	fd, err := openBelow(d.fd, e.name)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		return nil
	case err != nil:
		return d.fail("open", e.name, err)
	}
	child := &dir{fd: fd}
	if err := w.identify(child); err != nil {
		unix.Close(fd)
		return err
	}
	if d.borrowed {
		d.rest, d.borrowed = slices.Clone(d.rest), false
	}
	if len(w.top) <= heldTop {
		w.top = append(w.top, child)
		return nil
	}
	w.low = append(w.low, child)
	if len(w.low) > heldLow {
		w.retire(w.low[0])
		w.low = slices.Delete(w.low, 0, 1)
	}
	return nil
}

// retire closes the uppermost of the deepest levels.
func (w *walk) retire(d *dir) {
	w.gone.push(d.level)
	if w.gone.n == w.limit/2 {
		w.middle = d
		return
	}
	unix.Close(d.fd)
}

// identify notes which directory d is.
func (w *walk) identify(d *dir) error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return d.fail("stat", "", err)
	}
	d.dev, d.ino = st.Dev, st.Ino
	w.opened(&st)
	return nil
}

// leave goes back up from the current directory. When that was moved away, the
// walk goes on with the deepest of the top levels.
func (w *walk) leave() error {
	if len(w.low) == 0 {
		last := len(w.top) - 1
		unix.Close(w.top[last].fd)
		w.top = w.top[:last]
		return nil
	}
	last := len(w.low) - 1
	child := w.low[last]
	w.low = w.low[:last]
	defer unix.Close(child.fd)
	if last > 0 || w.gone.n == 0 {
		return nil
	}
	if w.middle != nil && w.gone.n == w.limit/2 {
		w.gone.pop()
		w.low, w.middle = append(w.low, w.middle), nil
		return nil
	}
	parent, err := reopen(child, w.gone.pop())
	if err != nil {
		return err
	}
	if parent == nil {
		w.startOver()
		return nil
	}
	w.low = append(w.low, parent)
	return nil
}

// reopen opens the directory above child where its listing was left; nil when it
// is not the one the walk came from.
func reopen(child *dir, l level) (*dir, error) {
	fd, err := unix.Openat(child.fd, "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, child.fail("open", "..", err)
	}
	parent := &dir{fd: fd, level: l}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && (st.Dev != l.dev || st.Ino != l.ino) {
		unix.Close(fd)
		return nil, nil
	}
	if err == nil {
		_, err = unix.Seek(fd, l.pos, io.SeekStart)
	}
	if err != nil {
		err = parent.fail("go back to", "", err)
		unix.Close(fd)
		return nil, err
	}
	return parent, nil
}

func (w *walk) close() {
	w.startOver()
	for _, d := range w.top {
		unix.Close(d.fd)
	}
}

// fail says which entry of d an error is about, by the path it has now.
func (d *dir) fail(op, name string, err error) error {
	path, lerr := os.Readlink("/proc/self/fd/" + strconv.Itoa(d.fd))
	if lerr != nil {
		path = "(a directory too deep for a path)"
	}
	if name != "" {
		path += "/" + name
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}

// openBelow opens a directory, but no link and no other mount.
func openBelow(at int, name string) (int, error) {
	return openat2.Open(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC,
		unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
}

// openRoot opens the directory a walk starts from; its parents are ours.
func openRoot(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// first reads the first entry of buf: a struct linux_dirent64.
func first(buf []byte) entry {
	const offset, length, kind, name = 8, 16, 18, 19
	size := int(binary.NativeEndian.Uint16(buf[length:]))
	n, _, _ := bytes.Cut(buf[name:size], []byte{0})
	return entry{name: string(n), kind: buf[kind], next: int64(binary.NativeEndian.Uint64(buf[offset:])), size: size}
}

// levels is a stack of levels. It grows by pages, so that a deep one is never
// copied, and gives them back.
type levels struct {
	pages [][]level
	n     int
}

const levelsPerPage = 4096

func (s *levels) push(l level) {
	if s.n%levelsPerPage == 0 {
		s.pages = append(s.pages, make([]level, 0, levelsPerPage))
	}
	page := &s.pages[len(s.pages)-1]
	*page = append(*page, l)
	s.n++
}

func (s *levels) pop() level {
	page := &s.pages[len(s.pages)-1]
	last := len(*page) - 1
	l := (*page)[last]
	*page = (*page)[:last]
	s.n--
	if last == 0 {
		s.pages[len(s.pages)-1] = nil
		s.pages = s.pages[:len(s.pages)-1]
	}
	return l
}

// errBusy is told when a tree fills up as fast as it is emptied.
func errBusy(d *dir, name string) error {
	return d.fail("remove", name, fmt.Errorf("%w: it is being filled while it is removed", unix.ENOTEMPTY))
}
