package layer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Decompress recognizes gzip and zstd by their first bytes (media types lie) and
// passes on anything else. The result must be closed. ctx ends the wait for memory.
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
	case bytes.HasPrefix(head, []byte("BZh")), bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, fmt.Errorf("%w: bzip2 and xz compression are not supported; build the image with gzip or zstd", ErrArchive)
	}
	return io.NopCloser(br), nil
}

// decompressor reads its source to the end, so that the source's digest covers
// bytes after the compressed data too.
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
