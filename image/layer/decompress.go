package layer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow is the largest zstd window accepted; it bounds the memory one layer
// takes. zstd -19 uses 8 MiB, --ultra -22 128 MiB.
const maxWindow = 128 << 20

// Decompress recognizes gzip and zstd by their first bytes (media types lie) and
// passes on anything else. The result must be closed.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(6)
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
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("%w: zstd: %w", ErrArchive, err)
		}
		return &decompressor{Reader: z, rest: br, done: func() error { z.Close(); return nil }}, nil
	case bytes.HasPrefix(head, []byte("BZh")), bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, fmt.Errorf("%w: bzip2 and xz compression are not supported; build the image with gzip or zstd", ErrArchive)
	}
	return io.NopCloser(br), nil
}

func isZstd(head []byte) bool {
	if bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		return true
	}
	// A skippable frame: 0x184D2A50 to 5F, little endian.
	return len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18})
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
