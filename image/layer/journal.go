package layer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// The journal is a zstd stream that begins with journalMagic and consists of records: a
// byte for the kind, then numbers and lengths as uvarints and the bytes of strings.
//
//	raw    LEN BYTES            the next bytes of the archive
//	data   PATH OFFSET LEN      the next LEN bytes of the archive are in the file PATH
//	moved  PATH NUMBER          PATH is another file from here on; in the records before
//	                            this one, PATH (and every path below it) is shadow/NUMBER
const journalMagic = "berth layer journal 1\n"

const (
	recRaw byte = iota + 1
	recData
	recMoved
)

// maxRaw is how many bytes a raw record may have; longer runs are split. It bounds the
// memory that a damaged journal can make the reader allocate.
const maxRaw = 64 << 10

type journalWriter struct {
	f   *os.File
	z   *zstd.Encoder
	w   *bufio.Writer
	raw []byte // bytes of the archive that were not yet written to a record
	num [binary.MaxVarintLen64]byte
}

func createJournal(name string) (*journalWriter, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(128<<10))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	j := &journalWriter{f: f, z: z, w: bufio.NewWriterSize(z, 64<<10), raw: make([]byte, 0, maxRaw)}
	_, err = j.w.WriteString(journalMagic)
	return j, err
}

func (j *journalWriter) addRaw(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), maxRaw-len(j.raw))
		j.raw = append(j.raw, p[:n]...)
		p = p[n:]
		if len(j.raw) == maxRaw {
			if err := j.flushRaw(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (j *journalWriter) flushRaw() error {
	if len(j.raw) == 0 {
		return nil
	}
	err := j.record(recRaw, uint64(len(j.raw)))
	if err == nil {
		_, err = j.w.Write(j.raw)
	}
	j.raw = j.raw[:0]
	return err
}

func (j *journalWriter) addData(path string, off, n int64) error {
	if err := j.flushRaw(); err != nil {
		return err
	}
	return j.named(recData, path, uint64(off), uint64(n))
}

func (j *journalWriter) addMoved(path string, number int) error {
	if err := j.flushRaw(); err != nil {
		return err
	}
	return j.named(recMoved, path, uint64(number))
}

func (j *journalWriter) named(kind byte, path string, numbers ...uint64) error {
	if err := j.record(kind, uint64(len(path))); err != nil {
		return err
	}
	if _, err := j.w.WriteString(path); err != nil {
		return err
	}
	return j.numbers(numbers...)
}

func (j *journalWriter) record(kind byte, n uint64) error {
	if err := j.w.WriteByte(kind); err != nil {
		return err
	}
	return j.numbers(n)
}

func (j *journalWriter) numbers(ns ...uint64) error {
	for _, n := range ns {
		if _, err := j.w.Write(binary.AppendUvarint(j.num[:0], n)); err != nil {
			return err
		}
	}
	return nil
}

// close closes the journal. If ok is not set, the journal may be left incomplete.
func (j *journalWriter) close(ok bool) error {
	var errs []error
	if ok {
		errs = append(errs, j.flushRaw(), j.w.Flush())
	}
	return errors.Join(append(errs, j.z.Close(), j.f.Close())...)
}

// rec is one record of a journal.
type rec struct {
	kind   byte
	raw    []byte // valid until the next record
	path   string
	off, n int64
}

type journalReader struct {
	f   *os.File
	z   *zstd.Decoder
	r   *bufio.Reader
	buf []byte
}

func openJournal(name string) (*journalReader, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	j := &journalReader{f: f, z: z, r: bufio.NewReaderSize(z, 64<<10), buf: make([]byte, maxRaw)}
	magic := j.buf[:len(journalMagic)]
	if _, err := io.ReadFull(j.r, magic); err != nil || string(magic) != journalMagic {
		return nil, errors.Join(fmt.Errorf("%w: %s is no layer journal", ErrDamaged, name), j.close())
	}
	return j, nil
}

func (j *journalReader) close() error {
	j.z.Close()
	return j.f.Close()
}

// next returns the next record, and io.EOF after the last one.
func (j *journalReader) next() (rec, error) {
	kind, err := j.r.ReadByte()
	if errors.Is(err, io.EOF) {
		return rec{}, io.EOF
	}
	if err != nil {
		return rec{}, damaged(err)
	}
	b, err := j.bytes()
	if err != nil {
		return rec{}, damaged(err)
	}
	switch kind {
	case recRaw:
		return rec{kind: kind, raw: b}, nil
	case recData:
		r := rec{kind: kind, path: string(b)}
		r.off, r.n, err = j.pair()
		return r, damaged(err)
	case recMoved:
		n, err := binary.ReadUvarint(j.r)
		return rec{kind: kind, path: string(b), n: int64(n)}, damaged(err)
	}
	return rec{}, damaged(fmt.Errorf("unknown record %d", kind))
}

func (j *journalReader) bytes() ([]byte, error) {
	n, err := binary.ReadUvarint(j.r)
	if err != nil {
		return nil, err
	}
	if n > maxRaw {
		return nil, fmt.Errorf("record of %d bytes", n)
	}
	_, err = io.ReadFull(j.r, j.buf[:n])
	return j.buf[:n], err
}

func (j *journalReader) pair() (a, b int64, err error) {
	x, err := binary.ReadUvarint(j.r)
	if err != nil {
		return 0, 0, err
	}
	y, err := binary.ReadUvarint(j.r)
	return int64(x), int64(y), err
}

func damaged(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: journal: %w", ErrDamaged, err)
}
