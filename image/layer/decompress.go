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
	"golang.org/x/sync/semaphore"
)

// maxWindow is the largest zstd window accepted: that of zstd --ultra -22. The
// usual ones are 8 MiB (zstd -19) and less.
const maxWindow = 128 << 20

// windowMemory bounds what all zstd windows take at once, in bytes, over all pulls;
// a layer waits for its part. A single window above it takes all of it.
const windowMemory = 48 << 20

var windows = semaphore.NewWeighted(windowMemory)

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
		return newZstd(ctx, br, head)
	case bytes.HasPrefix(head, []byte("BZh")), bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, fmt.Errorf("%w: bzip2 and xz compression are not supported; build the image with gzip or zstd", ErrArchive)
	}
	return io.NopCloser(br), nil
}

// newZstd makes a decoder for windows as large as the first frame's.
func newZstd(ctx context.Context, br *bufio.Reader, head []byte) (io.ReadCloser, error) {
	var h zstd.Header
	if err := h.Decode(head); err != nil {
		return nil, fmt.Errorf("%w: zstd: %w", ErrArchive, err)
	}
	need := h.WindowSize
	if h.SingleSegment {
		need = h.FrameContentSize
	}
	window := max(need, 8<<20)
	if window > maxWindow {
		return nil, fmt.Errorf("%w: zstd: a window of %d bytes; at most %d are supported", ErrArchive, window, maxWindow)
	}
	part := int64(min(max(need, 1<<20), windowMemory))
	if err := windows.Acquire(ctx, part); err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(window), zstd.WithDecoderMaxMemory(window))
	if err != nil {
		windows.Release(part)
		return nil, fmt.Errorf("%w: zstd: %w", ErrArchive, err)
	}
	done := func() error { z.Close(); windows.Release(part); return nil }
	return &decompressor{Reader: z, rest: br, done: done}, nil
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
