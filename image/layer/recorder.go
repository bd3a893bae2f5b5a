package layer

import (
	"bytes"
	"errors"
	"io"
)

// recorder feeds the tar reader. What it reads of headers, padding and the tail goes to
// the journal; what it reads into the buffer for a file's content is noted as a fragment
// instead.
//
// To tell the two apart it relies on what archive/tar does and does not promise: that
// Read passes the caller's buffer, or a slice of it, down to the reader below, and fills
// the holes of a sparse file with zeros itself. If a release of Go read into a buffer of
// its own, all content would be taken for holes; [recorder.fill] makes that an error, and
// TestRecorderKeepsEveryByte fails.
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

// fragment is a part of a buffer that came from the archive; the rest are holes.
type fragment struct{ off, n int }

func newRecorder(src io.Reader, j *journalWriter, limit int64) *recorder {
	return &recorder{src: src, j: j, limit: limit, buf: make([]byte, blockSize)}
}

// Read serves the tar reader.
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

// note tells whether p lies in the file buffer and remembers where: the tar
// reader passes parts of the caller's buffer down, and fills the holes of sparse
// files itself. A slice of a buffer keeps the buffer's end as its capacity.
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

// fill reads r, which reads from the recorder, until buf is full or r ends. Afterwards
// frags are the parts of buf that came from the archive.
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

// zeroBlock is what holes are filled with.
var zeroBlock [blockSize]byte

// drain journals what follows the end of the archive.
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
