package layer

import (
	"bytes"
	"errors"
	"io"
)

// recorder is the reader below the tar reader. The bytes of headers, padding and the tail
// of the archive go to the journal. Of the bytes that are read into the buffer for a file's
// content, only the position in the buffer is recorded, as a fragment.
//
// To distinguish the two it relies on behaviour that archive/tar does not promise: its Read
// passes the caller's buffer, or a slice of it, to the reader below, and fills the holes of a
// sparse file with zeros itself. If a release of Go read into a buffer of its own, all
// content would look like holes. [recorder.fill] would return an error then, and
// TestRecorderKeepsEveryByte would fail.
type recorder struct {
	src   io.Reader
	buf   []byte
	r, w  int
	err   error
	j     *journalWriter
	total int64
	limit int64

	into  []byte     // the file buffer being filled; nil while collecting
	frags []fragment // of into, in order
}

// fragment is a part of a buffer that was read from the archive. The other parts of the
// buffer are holes.
type fragment struct{ off, n int }

func newRecorder(src io.Reader, j *journalWriter, limit int64) *recorder {
	return &recorder{src: src, j: j, limit: limit, buf: make([]byte, blockSize)}
}

// Read reads from the archive, for the tar reader.
func (c *recorder) Read(p []byte) (int, error) {
	n, err := c.read(p)
	if n == 0 {
		return n, err
	}
	if c.total += int64(n); c.total > c.limit {
		return 0, tooMany("bytes in one layer", c.limit)
	}
	if c.note(p[:n]) {
		return n, err
	}
	if jerr := c.j.addRaw(p[:n]); jerr != nil {
		return 0, jerr
	}
	return n, err
}

func (c *recorder) read(p []byte) (int, error) {
	if c.r == c.w {
		if c.err != nil {
			return 0, c.err
		}
		if len(p) >= len(c.buf) {
			n, err := c.src.Read(p)
			c.err = err
			return n, nil
		}
		c.r = 0
		c.w, c.err = c.src.Read(c.buf)
		if c.w == 0 {
			return 0, c.err
		}
	}
	n := copy(p, c.buf[c.r:c.w])
	c.r += n
	return n, nil
}

// note reports whether p is a part of the file buffer, and records its position there. A
// slice of a buffer has the buffer's end as the end of its capacity, from which the position
// follows.
func (c *recorder) note(p []byte) bool {
	off := cap(c.into) - cap(p)
	if c.into == nil || off < 0 || off+len(p) > len(c.into) || &c.into[off] != &p[0] {
		return false
	}
	if k := len(c.frags) - 1; k >= 0 && c.frags[k].off+c.frags[k].n == off {
		c.frags[k].n += len(p)
	} else {
		c.frags = append(c.frags, fragment{off, len(p)})
	}
	return true
}

// fill reads r, the tar reader above the recorder, until buf is full or r ends. Afterwards
// frags are the parts of buf that were read from the archive.
func (c *recorder) fill(r io.Reader, buf []byte) (int, error) {
	c.into, c.frags = buf, c.frags[:0]
	n, err := readBlock(r, buf)
	c.into = nil
	off := 0
	for _, f := range append(c.frags, fragment{off: n}) {
		if hole := buf[off:f.off]; !bytes.Equal(hole, zeroBlock[:len(hole)]) {
			return 0, errors.New("archive/tar did not read into the buffer it was given: this berth was built with a release of Go it does not know")
		}
		off = f.off + f.n
	}
	return n, err
}

// zeroBlock is compared with the parts of a buffer that must be holes.
var zeroBlock [blockSize]byte

// drain writes the bytes after the end of the archive to the journal.
func (c *recorder) drain() error {
	buf := make([]byte, 32<<10)
	for {
		if _, err := c.Read(buf); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
