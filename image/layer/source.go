package layer

import (
	"context"
	"crypto"
	_ "crypto/sha256" // registers what digests name
	_ "crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
)

// blockSize is how many bytes are passed from one stage of the pipeline to the next at once.
// It is large enough for the costs of system calls and goroutine switches to be negligible.
const blockSize = 256 << 10

// blocksAhead is how many blocks a stage of the pipeline may be ahead of the next one.
const blocksAhead = 3

var blocks = sync.Pool{New: func() any { b := make([]byte, blockSize); return &b }}

type block struct {
	buf *[]byte
	n   int
	err error
}

// Ahead reads from a source in a goroutine of its own, so that the source (a network
// connection, a decompressor) works at the same time as the caller. [Ahead.Close] ends the
// goroutine and waits for it. The caller must make the source's Read return before that, for
// example by cancelling its context.
type Ahead struct {
	in   chan block
	stop chan struct{}
	done chan struct{}
	cur  block
	rest []byte
}

// NewAhead returns an Ahead of r, which starts to read at once.
func NewAhead(r io.Reader) *Ahead {
	a := &Ahead{in: make(chan block, blocksAhead), stop: make(chan struct{}), done: make(chan struct{})}
	go a.run(r)
	return a
}

func (a *Ahead) run(r io.Reader) {
	defer close(a.done)
	defer close(a.in)
	for {
		b := block{buf: blocks.Get().(*[]byte)}
		b.n, b.err = readBlock(r, *b.buf)
		select {
		case a.in <- b:
		case <-a.stop:
			blocks.Put(b.buf)
			return
		}
		if b.err != nil {
			return
		}
	}
}

// readBlock reads until buf is full or r fails. Unlike io.ReadFull it returns r's own error.
func readBlock(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// Read reads the bytes of the source, and returns its error after the last one.
func (a *Ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		a.next()
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// WriteTo writes the blocks to w without copying them.
func (a *Ahead) WriteTo(w io.Writer) (total int64, err error) {
	for {
		if len(a.rest) > 0 {
			n, err := w.Write(a.rest)
			total += int64(n)
			a.rest = a.rest[n:]
			if err != nil {
				return total, err
			}
		}
		if errors.Is(a.cur.err, io.EOF) {
			return total, nil
		}
		if a.cur.err != nil {
			return total, a.cur.err
		}
		a.next()
	}
}

func (a *Ahead) next() {
	if a.cur.buf != nil {
		blocks.Put(a.cur.buf)
	}
	b, ok := <-a.in
	if !ok {
		b = block{err: io.ErrClosedPipe}
	}
	a.cur, a.rest = b, nil
	if b.buf != nil {
		a.rest = (*b.buf)[:b.n]
	}
}

// Close ends the goroutine and waits for it.
func (a *Ahead) Close() error {
	close(a.stop)
	for b := range a.in {
		blocks.Put(b.buf)
	}
	<-a.done
	return nil
}

// Digester is a reader that computes digest and length of the stream that passes through it.
// At the end of the stream it fails if one of them is not as wanted.
type Digester struct {
	ctx  context.Context
	r    io.Reader
	hash hash.Hash
	want digest.Digest
	size int64 // wanted length in bytes; negative if unknown
	what string
	n    int64
	err  error
}

// NewDigester returns a reader of r that verifies the digest want and, if size is not
// negative, the length in bytes. what describes the stream in errors. The stream fails when
// ctx ends.
func NewDigester(ctx context.Context, r io.Reader, want digest.Digest, size int64, what string) (*Digester, error) {
	h, err := newHash(want)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return &Digester{ctx: ctx, r: r, hash: h, want: want, size: size, what: what}, nil
}

func newHash(d digest.Digest) (hash.Hash, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("%w: digest %q: %w", ErrArchive, d, err)
	}
	switch d.Algorithm() {
	case digest.SHA256:
		return crypto.SHA256.New(), nil
	case digest.SHA512:
		return crypto.SHA512.New(), nil
	}
	return nil, fmt.Errorf("%w: digest %q: only sha256 and sha512 are supported", ErrArchive, d)
}

// Read reads from the source. It returns io.EOF only if digest and length are as wanted.
func (d *Digester) Read(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	if d.err = d.ctx.Err(); d.err != nil {
		return 0, d.err
	}
	n, err := d.r.Read(p)
	d.hash.Write(p[:n])
	d.n += int64(n)
	switch {
	case d.size >= 0 && d.n > d.size:
		err = fmt.Errorf("%w: %s is longer than the %d bytes its manifest names", ErrArchive, d.what, d.size)
	case errors.Is(err, io.EOF):
		err = d.verify()
	}
	d.err = err
	return n, err
}

func (d *Digester) verify() error {
	if d.size >= 0 && d.n != d.size {
		return fmt.Errorf("%w: %s ended after %d of %d bytes", io.ErrUnexpectedEOF, d.what, d.n, d.size)
	}
	if got := digest.NewDigest(d.want.Algorithm(), d.hash); got != d.want {
		return fmt.Errorf("%w: %s has the digest %s, not %s", ErrArchive, d.what, got, d.want)
	}
	return io.EOF
}

// Size returns the number of bytes that were read so far.
func (d *Digester) Size() int64 { return d.n }
