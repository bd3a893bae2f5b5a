package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// benchDir is on tmpfs where there is one: the figure is to be that of the code.
func benchDir(b *testing.B) string {
	dir, err := os.MkdirTemp("/dev/shm", "berth-bench-")
	if err != nil {
		return b.TempDir()
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// halfCompressible gives n bytes that gzip makes about half of.
func halfCompressible(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + r.IntN(16))
	}
	return b
}

func manyFiles(b testing.TB, seed uint64, files, size int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	pool := halfCompressible(r, 1<<20)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range files {
		n := size/2 + r.IntN(size)
		if i%10 == 0 {
			if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("usr/lib/p%d/d%d/", seed, i/10), Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(1_700_000_000, 0)}); err != nil {
				b.Fatal(err)
			}
		}
		off := r.IntN(len(pool) - n)
		body := append([]byte(nil), pool[off:off+n]...)
		for k := 0; k < n; k += 64 {
			body[k] = byte(r.IntN(256))
		}
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("usr/lib/p%d/d%d/f%d", seed, i/10, i), Mode: 0o644, Size: int64(n), ModTime: time.Unix(1_700_000_000, 0)}); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return buf.Bytes()
}

func oneFile(b testing.TB, size int) []byte {
	r := rand.New(rand.NewPCG(7, 1))
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: "big", Mode: 0o644, Size: int64(size)}); err != nil {
		b.Fatal(err)
	}
	for size > 0 {
		n := min(size, 1<<20)
		if _, err := w.Write(halfCompressible(r, n)); err != nil {
			b.Fatal(err)
		}
		size -= n
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return buf.Bytes()
}

func benchPull(b *testing.B, img v1.Image, bytes int64) {
	reg := newRegistry(b, nil)
	ref := reg.push(b, "bench", img)
	b.SetBytes(bytes)
	root := benchDir(b)
	for i := 0; b.Loop(); i++ {
		s, err := Open(Options{Root: filepath.Join(root, fmt.Sprint(i))})
		if err != nil {
			b.Fatal(err)
		}
		pullOK(b, s, ref)
		b.StopTimer()
		s.Close()
		os.RemoveAll(filepath.Join(root, fmt.Sprint(i)))
		b.StartTimer()
	}
}

// BenchmarkPull pulls 200 MiB in 16,000 files and 4 layers from the loopback.
func BenchmarkPull(b *testing.B) {
	var layers []v1.Layer
	var total int64
	for i := range 4 {
		data := manyFiles(b, uint64(i), 4000, 12800)
		total += int64(len(data))
		layers = append(layers, layerOf(b, data))
	}
	benchPull(b, imageOf(b, layers...), total)
}

// BenchmarkPullBig pulls one layer of 512 MiB.
func BenchmarkPullBig(b *testing.B) {
	data := oneFile(b, 512<<20)
	benchPull(b, imageOf(b, layerOf(b, data)), int64(len(data)))
}

func BenchmarkPullBigZstd(b *testing.B) {
	data := oneFile(b, 512<<20)
	benchPull(b, imageOf(b, layerOf(b, data, tarball.WithCompression("zstd"))), int64(len(data)))
}

// BenchmarkFloor is curl | gzip -dc | tar x of the layer of BenchmarkPullBig.
func BenchmarkFloor(b *testing.B) {
	data := oneFile(b, 512<<20)
	reg := newRegistry(b, nil)
	img := imageOf(b, layerOf(b, data))
	reg.push(b, "floor", img)
	ls, err := img.Layers()
	if err != nil {
		b.Fatal(err)
	}
	d, err := ls[0].Digest()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	root := benchDir(b)
	for b.Loop() {
		cmd := exec.Command("sh", "-c", fmt.Sprintf("curl -s http://%s/v2/floor/blobs/%s | gzip -dc | tar -x -C %s", reg.host, d, root))
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatal(err, string(out))
		}
		b.StopTimer()
		os.Remove(filepath.Join(root, "big"))
		b.StartTimer()
	}
}

// BenchmarkRepull pulls an image that is here.
func BenchmarkRepull(b *testing.B) {
	reg := newRegistry(b, nil)
	ref := reg.push(b, "re", imageOf(b, layerOf(b, manyFiles(b, 1, 100, 1000))))
	s := openStore(b, Options{})
	pullOK(b, s, ref)
	for b.Loop() {
		pullOK(b, s, ref)
	}
}

var _ io.Reader
