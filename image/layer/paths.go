package layer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// appendPath appends a path to a list. The bytes that it has in common with the path before
// it (last) are replaced by their number: paths in the order of an archive share most of
// their bytes.
func appendPath(list []byte, last, path string) []byte {
	same := 0
	for same < min(len(last), len(path)) && last[same] == path[same] {
		same++
	}
	list = binary.AppendUvarint(list, uint64(same))
	list = binary.AppendUvarint(list, uint64(len(path)-same))
	return append(list, path[same:]...)
}

type byteReader interface {
	io.Reader
	io.ByteReader
}

// readPath reads the path that follows last in the list, and returns io.EOF at the end of
// the list.
func readPath(r byteReader, last []byte) ([]byte, error) {
	same, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	more, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	if same > uint64(len(last)) || more > 2*maxPath {
		return nil, errors.New("list of paths is damaged")
	}
	path := append(last[:same], make([]byte, more)...)
	_, err = io.ReadFull(r, path[same:])
	return path, err
}

// dirTimes are the times of directories. They are set when no more files are created in the
// directories, which would change the times.
type dirTimes struct {
	list []byte
	last string
}

func (d *dirTimes) add(real string, times [2]unix.Timespec) {
	d.list, d.last = appendPath(d.list, d.last, real), real
	for _, t := range times {
		d.list = binary.AppendUvarint(d.list, uint64(t.Sec))
		d.list = binary.AppendUvarint(d.list, uint64(t.Nsec))
	}
}

// each calls f for each directory in the order of the archive, and empties the list. If a
// directory occurs several times, its last times are set last.
func (d *dirTimes) each(f func(real string, times [2]unix.Timespec) error) error {
	r := bytes.NewReader(d.list)
	var path []byte
	for r.Len() > 0 {
		var err error
		if path, err = readPath(r, path); err != nil {
			return err
		}
		var n [4]uint64
		for i := range n {
			if n[i], err = binary.ReadUvarint(r); err != nil {
				return err
			}
		}
		times := [2]unix.Timespec{{Sec: int64(n[0]), Nsec: int64(n[1])}, {Sec: int64(n[2]), Nsec: int64(n[3])}}
		if err := f(string(path), times); err != nil {
			return err
		}
	}
	d.list, d.last = d.list[:0], ""
	return nil
}

// ListUsage returns the disk usage of the two lists in a layer directory, which [Inherit]
// removes: bytes allocated and number of inodes.
func ListUsage(dirPath string) (bytes, inodes uint64) {
	for _, name := range []string{impliedName, whiteoutsName} {
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(dirPath, name), &st) == nil {
			bytes += uint64(st.Blocks) * 512
			inodes++
		}
	}
	return bytes, inodes
}

// pathList writes a list of paths to a file, which is created with the first path.
type pathList struct {
	name string
	f    *os.File
	w    *bufio.Writer
	buf  []byte
	last string
}

func (l *pathList) add(real string) (err error) {
	if l.f == nil {
		if l.f, err = os.OpenFile(l.name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
			return err
		}
		l.w = bufio.NewWriter(l.f)
	}
	l.buf, l.last = appendPath(l.buf[:0], l.last, real), real
	_, err = l.w.Write(l.buf)
	return err
}

func (l *pathList) close() error {
	if l.f == nil {
		return nil
	}
	return errors.Join(l.w.Flush(), l.f.Close())
}

// eachPath calls f for each path in the list of that name, in the order of the archive.
func eachPath(name string, f func(string) error) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close() // only read
	r := bufio.NewReader(file)
	var path []byte
	for {
		path, err = readPath(r, path)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := f(string(path)); err != nil {
			return err
		}
	}
}
