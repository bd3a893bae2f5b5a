package layer

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/xi2/xz"
)

// Decompress decompresses gzip and zstd, which it recognizes by the first bytes because
// media types are often wrong; other data is returned unchanged. The caller closes the
// result. A zstd stream may have to wait for memory, until ctx ends.
func Decompress(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(zstd.HeaderMaxSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("%w: gzip: %w", ErrArchive, err)
		}
		return &decompressor{Reader: z, rest: br, done: z.Close}, nil
	case isZstd(head):
		return newZstd(ctx, br)
	case bytes.HasPrefix(head, []byte("BZh")), bytes.HasPrefix(head, xzMagic):
		return nil, fmt.Errorf("%w: bzip2 and xz compression of layers are not supported; build the image with gzip or zstd", ErrArchive)
	}
	return io.NopCloser(br), nil
}

// xzDictionary is the largest xz dictionary that is accepted, in bytes. It is that of xz -9.
const xzDictionary = 64 << 20

// DecompressArchive does what [Decompress] does, for bzip2 and xz as well. Archives that are
// loaded may be compressed with these; layers may not.
func DecompressArchive(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte("BZh")):
		return &decompressor{Reader: &guarded{bzip2.NewReader(br)}, rest: br, done: func() error { return nil }}, nil
	case bytes.HasPrefix(head, xzMagic):
		var share windowShare
		if err := share.grow(ctx, xzDictionary); err != nil {
			return nil, err
		}
		done := func() error { share.release(); return nil }
		z, err := xz.NewReader(br, xzDictionary)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%w: xz: %w", ErrArchive, err), done())
		}
		return &decompressor{Reader: &guarded{z}, rest: br, done: done}, nil
	}
	return Decompress(ctx, br)
}

var xzMagic = []byte{0xfd, '7', 'z', 'X', 'Z', 0}

// guarded converts a panic in Read to an error. Damaged data may cause one in the xz
// decompressor, which is not fuzzed as the others are.
type guarded struct{ r io.Reader }

// Read implements [io.Reader].
func (g *guarded) Read(p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			n, err = 0, fmt.Errorf("%w: its compressed data is damaged: %v", ErrArchive, v)
		}
	}()
	return g.r.Read(p)
}

// decompressor decompresses a stream. It reads its source to the end, so that bytes after the
// compressed data are included in the source's digest.
type decompressor struct {
	io.Reader
	rest io.Reader
	done func() error
}

func (d *decompressor) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		if _, derr := io.Copy(io.Discard, d.rest); derr != nil {
			err = derr
		}
	}
	return n, err
}

func (d *decompressor) Close() error {
	return d.done()
}
