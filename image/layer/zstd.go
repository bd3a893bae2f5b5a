package layer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/semaphore"
)

// maxWindow is the largest zstd window that is accepted, in bytes. It is that of
// zstd --ultra -22. Ordinary windows have 8 MiB (zstd -19) or less and are called modest.
const (
	maxWindow    = 128 << 20
	modestWindow = 8 << 20
)

// The modest windows of all pulls share windowMemory, in bytes. A layer that has waited for
// windowPatience gets its window nevertheless: stalled downloads may have taken the memory.
// The slots of package image bound how many layers there can be.
// Of larger windows there is one at a time. They don't count in windowMemory, so that a layer
// with a large window and a stalled download delays no ordinary layer.
const (
	windowMemory   = 48 << 20
	windowPatience = 3 * time.Second
)

var (
	windows = semaphore.NewWeighted(windowMemory)
	large   = semaphore.NewWeighted(1)
)

// windowShare is the memory that one layer has for its window.
type windowShare struct {
	size   uint64 // of the largest window for which it suffices
	shared int64  // bytes taken from windowMemory
	large  bool
}

// grow increases the share to a window of size bytes, and waits for the memory until ctx
// ends.
func (w *windowShare) grow(ctx context.Context, size uint64) error {
	if size <= w.size {
		return nil
	}
	if size > modestWindow {
		if err := large.Acquire(ctx, 1); err != nil {
			return err
		}
		w.large, w.size = true, maxWindow
		return nil
	}
	// A layer takes enough for any modest window at once, so that no layer waits for more
	// memory while it has some, which could be a deadlock.
	part := int64(modestWindow)
	if size <= 1<<20 && w.size == 0 {
		part = 1 << 20
	}
	windows.Release(w.shared)
	w.shared = 0
	patient, cancel := context.WithTimeout(ctx, windowPatience)
	defer cancel()
	if windows.Acquire(patient, part) == nil {
		w.shared = part
	}
	w.size = uint64(part)
	return ctx.Err()
}

func (w *windowShare) release() {
	windows.Release(w.shared)
	if w.large {
		large.Release(1)
	}
	*w = windowShare{}
}

func isZstd(head []byte) bool {
	if bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		return true
	}
	// A skippable frame: 0x184D2A50 to 5F, little endian.
	return len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18})
}

// zstdReader decompresses one frame after the other. Each may have a window of another size;
// tools that write many frames begin with a small one.
type zstdReader struct {
	ctx   context.Context
	br    *bufio.Reader
	z     *zstd.Decoder
	frame *zstdFrame // the present frame, nil between two frames
	share windowShare
}

// newZstd returns a decompressor for the frames in br. It reads the header of the first one.
func newZstd(ctx context.Context, br *bufio.Reader) (io.ReadCloser, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, fmt.Errorf("%w: zstd: %w", ErrArchive, err)
	}
	r := &zstdReader{ctx: ctx, br: br, z: z}
	if err := r.next(); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Read implements [io.Reader].
func (r *zstdReader) Read(p []byte) (int, error) {
	for {
		if r.frame == nil {
			if err := r.next(); err != nil {
				return 0, err
			}
		}
		n, err := r.z.Read(p)
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, r.frame) // the checksum, if the decoder has not read it
			r.frame = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// next goes to the next frame with data. It returns io.EOF if there is none.
func (r *zstdReader) next() error {
	for {
		head, err := r.br.Peek(zstd.HeaderMaxSize)
		if len(head) == 0 {
			return err
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		var h zstd.Header
		if err := h.Decode(head); err != nil {
			return fmt.Errorf("%w: zstd: %w", ErrArchive, err)
		}
		if !h.Skippable {
			return r.begin(h)
		}
		if _, err := io.CopyN(io.Discard, r.br, int64(h.HeaderSize)+int64(h.SkippableSize)); err != nil {
			return whole(err)
		}
	}
}

func (r *zstdReader) begin(h zstd.Header) error {
	window := h.WindowSize
	if h.SingleSegment {
		window = h.FrameContentSize
	}
	if window > maxWindow {
		return fmt.Errorf("%w: zstd: a window of %d bytes; at most %d are supported", ErrArchive, window, maxWindow)
	}
	if err := r.share.grow(r.ctx, window); err != nil {
		return err
	}
	r.frame = &zstdFrame{r: r.br, left: int64(h.HeaderSize), checksum: h.HasCheckSum}
	return r.z.Reset(r.frame)
}

// Close frees the decoder's memory and returns the share of windowMemory.
func (r *zstdReader) Close() error {
	r.z.Close()
	r.share.release()
	return nil
}

// zstdFrame reads the bytes of one zstd frame and ends there (RFC 8878, section 3.1.1).
type zstdFrame struct {
	r        *bufio.Reader
	left     int64 // bytes left of the present part: the header, a block or the checksum
	last     bool  // the present block is the last one
	checksum bool  // a checksum follows the last block
}

// Read implements [io.Reader].
func (f *zstdFrame) Read(p []byte) (int, error) {
	if f.left == 0 {
		if err := f.part(); err != nil {
			return 0, err
		}
	}
	n, err := f.r.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	return n, whole(err)
}

// part reads the header of the next part and sets its length.
func (f *zstdFrame) part() error {
	switch {
	case f.last && !f.checksum:
		return io.EOF
	case f.last:
		f.left, f.checksum = 4, false
		return nil
	}
	b, err := f.r.Peek(3)
	if err != nil {
		return whole(err)
	}
	const rle = 1 // type of a block with one byte that is repeated
	header := int64(b[0]) | int64(b[1])<<8 | int64(b[2])<<16
	f.last, f.left = header&1 != 0, 3+header>>3
	if header>>1&3 == rle {
		f.left = 4
	}
	return nil
}

// whole converts io.EOF in the middle of a frame to io.ErrUnexpectedEOF.
func whole(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
