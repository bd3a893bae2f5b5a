package layer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// zstdOf compresses data to one frame with the given window.
func zstdOf(t testing.TB, data []byte, window int) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b, zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Flush(); err != nil { // so that the frame is not of a single segment
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestZstdFrames has frames of one layer differ in their windows, with skippable ones
// between them, as the tools that compress in pieces write them.
func TestZstdFrames(t *testing.T) {
	src := rand.NewChaCha8([32]byte{1})
	far := make([]byte, 20<<20) // the second half repeats the first, 10 MiB before
	src.Read(far[:10<<20])
	copy(far[10<<20:], far)
	skip := append([]byte{0x50, 0x2a, 0x4d, 0x18, 5, 0, 0, 0}, "hello"...)
	zeros := make([]byte, 3<<20) // blocks of one repeated byte
	blob := bytes.Join([][]byte{skip, zstdOf(t, []byte("small"), 1<<10), skip, zstdOf(t, far, 16<<20), zstdOf(t, zeros, 1<<20), zstdOf(t, far, 128<<20), skip}, nil)
	want := bytes.Join([][]byte{[]byte("small"), far, zeros, far}, nil)
	got, err := decompressed(t.Context(), blob)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, want %d: %v", len(got), len(want), err)
	}
	if !large.TryAcquire(1) || !windows.TryAcquire(windowMemory) {
		t.Fatal("memory is still counted")
	}
	large.Release(1)
	windows.Release(windowMemory)
	for _, cut := range []int{1, 2, 20, 1 << 20} {
		if _, err := decompressed(t.Context(), blob[:len(blob)-len(skip)-cut]); err == nil {
			t.Errorf("without the last %d bytes it counts as whole", cut)
		}
	}
	if _, err := decompressed(t.Context(), append(zstdOf(t, want, 1<<20), "junk"...)); !errors.Is(err, ErrArchive) {
		t.Errorf("with junk behind: %v", err)
	}
}

func decompressed(ctx context.Context, blob []byte) ([]byte, error) {
	r, err := Decompress(ctx, bytes.NewReader(blob))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// Layers claim the largest zstd windows, and then hardly come: others with ordinary
// windows are unpacked meanwhile.
func TestAttackWindowMemory(t *testing.T) {
	for name, claim := range map[string]int{"large": maxWindow, "modest": modestWindow} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			head := zstdOf(t, make([]byte, 1000), claim)[:zstd.HeaderMaxSize]
			begun := make(chan error, 100)
			var end sync.WaitGroup
			var drips []io.Closer
			for range windowMemory/modestWindow + 1 {
				r, w := io.Pipe()
				drips = append(drips, w)
				go w.Write(head) // and no more
				end.Go(func() {
					z, err := Decompress(ctx, r)
					begun <- err
					if err == nil {
						io.Copy(io.Discard, z)
						z.Close()
					}
				})
			}
			if err := <-begun; err != nil {
				t.Error(err)
			}
			got, err := decompressed(t.Context(), zstdOf(t, []byte("ordinary"), modestWindow))
			if err != nil || string(got) != "ordinary" {
				t.Errorf("%q: %v", got, err)
			}
			cancel()
			for _, d := range drips {
				d.Close()
			}
			end.Wait()
		})
	}
}
