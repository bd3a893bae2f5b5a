package layer

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrDamaged is wrapped when a layer on disk has changed since it was unpacked.
var ErrDamaged = errors.New("layer is damaged")

// Assemble writes the tar archive from which the layer directory was made. If the directory
// is intact, it is the same byte for byte; the caller has to verify the digest. If a file is
// missing or too short, the error wraps [ErrDamaged].
func Assemble(dirPath string, w io.Writer) (err error) {
	moved, err := readMoved(dirPath)
	if err != nil {
		return err
	}
	j, err := openJournal(filepath.Join(dirPath, journal))
	if err != nil {
		return notThere(err)
	}
	t, err := openTree(dirPath, nil)
	if err != nil {
		return errors.Join(notThere(err), j.close())
	}
	as := assembler{tree: t, w: w, moved: moved, fd: -1}
	err = as.run(j)
	as.closeFile()
	return errors.Join(err, t.close(), j.close())
}

func notThere(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

// move is a record of the journal: the file or directory that had a path before record seq
// is shadow/NUMBER now.
type move struct {
	seq    int
	number int64
}

// readMoved returns the moves of each path, in the order of the journal.
func readMoved(dirPath string) (map[string][]move, error) {
	if _, err := os.Stat(filepath.Join(dirPath, shadowsDir)); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	j, err := openJournal(filepath.Join(dirPath, journal))
	if err != nil {
		return nil, notThere(err)
	}
	moved := map[string][]move{}
	for seq := 0; ; seq++ {
		r, err := j.next()
		if errors.Is(err, io.EOF) {
			return moved, j.close()
		}
		if err != nil {
			return nil, errors.Join(err, j.close())
		}
		if r.kind == recMoved {
			moved[r.path] = append(moved[r.path], move{seq, r.n})
		}
	}
}

type assembler struct {
	*tree
	w     io.Writer
	moved map[string][]move
	fd    int
	open  string
}

func (s *assembler) run(j *journalReader) error {
	buf := blocks.Get().(*[]byte)
	defer blocks.Put(buf)
	for seq := 0; ; seq++ {
		r, err := j.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch r.kind {
		case recRaw:
			_, err = s.w.Write(r.raw)
		case recData:
			err = s.data(seq, r, *buf)
		}
		if err != nil {
			return err
		}
	}
}

// locate returns the present path, relative to the layer directory, of the file that had the
// path when record seq was written. The first move after that record, of the file or of a
// directory above it, decides.
func (s *assembler) locate(seq int, path string) string {
	if len(s.moved) == 0 {
		return FSDir + "/" + path
	}
	first, at := move{seq: math.MaxInt}, FSDir+"/"+path
	for end := len(path); end > 0; end = strings.LastIndexByte(path[:end], '/') {
		if m, ok := s.nextMove(seq, path[:end]); ok && m.seq < first.seq {
			first, at = m, shadowsDir+"/"+strconv.FormatInt(m.number, 10)+path[end:]
		}
	}
	return at
}

// nextMove returns the first move of exactly this path after record seq. Earlier moves are
// dropped, because the records are processed in order.
func (s *assembler) nextMove(seq int, path string) (move, bool) {
	list, ok := s.moved[path]
	if !ok {
		return move{}, false
	}
	for len(list) > 0 && list[0].seq < seq {
		list = list[1:]
	}
	if len(list) == 0 {
		delete(s.moved, path)
		return move{}, false
	}
	s.moved[path] = list
	return list[0], true
}

func (s *assembler) data(seq int, r rec, buf []byte) error {
	if err := s.openFile(s.locate(seq, r.path)); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, r.path, err)
	}
	for off, left := r.off, r.n; left > 0; {
		n, err := unix.Pread(s.fd, buf[:min(left, int64(len(buf)))], off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrDamaged, r.path, err)
		}
		if n == 0 {
			return fmt.Errorf("%w: %s is too short", ErrDamaged, r.path)
		}
		if _, err := s.w.Write(buf[:n]); err != nil {
			return err
		}
		off, left = off+int64(n), left-int64(n)
	}
	return nil
}

func (s *assembler) openFile(path string) error {
	if s.fd >= 0 && s.open == path {
		return nil
	}
	s.closeFile()
	p, base, err := s.parent(path, false)
	if err != nil {
		return err
	}
	s.fd, err = unix.Openat(p.fd, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	s.open = path
	return err
}

func (s *assembler) closeFile() {
	if s.fd >= 0 {
		unix.Close(s.fd) // read-only
	}
	s.fd, s.open = -1, ""
}
