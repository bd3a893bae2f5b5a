package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
)

// blobLayer is a gzip layer that lies in the registry already.
type blobLayer struct {
	path           string
	digest, diffID v1.Hash
	size           int64
}

// Digest of the compressed blob.
func (b *blobLayer) Digest() (v1.Hash, error) { return b.digest, nil }

// DiffID is the digest of the tar.
func (b *blobLayer) DiffID() (v1.Hash, error) { return b.diffID, nil }

// Compressed opens the blob.
func (b *blobLayer) Compressed() (io.ReadCloser, error) { return os.Open(b.path) }

// Uncompressed is not needed: nothing here unpacks a layer through this type.
func (b *blobLayer) Uncompressed() (io.ReadCloser, error) {
	return nil, fmt.Errorf("layer %s: only its blob is at hand", b.digest)
}

// Size of the blob in bytes.
func (b *blobLayer) Size() (int64, error) { return b.size, nil }

// MediaType is the OCI gzip layer's.
func (b *blobLayer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }

// buildLayer writes a gzip layer into the registry, hashing on the way.
func (l *loopback) buildLayer(fill func(*tar.Writer) error) (*blobLayer, error) {
	f, err := os.CreateTemp(l.blobs, "layer-")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	blobSum, tarSum := sha256.New(), sha256.New()
	gz := gzip.NewWriter(io.MultiWriter(f, blobSum))
	tw := tar.NewWriter(io.MultiWriter(gz, tarSum))
	for _, step := range []func() error{func() error { return fill(tw) }, tw.Close, gz.Close} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("build a layer: %w", err)
		}
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	layer := &blobLayer{digest: hash(blobSum.Sum(nil)), diffID: hash(tarSum.Sum(nil)), size: size}
	layer.path = filepath.Join(l.blobs, layer.digest.Hex)
	return layer, os.Rename(f.Name(), layer.path)
}

func hash(sum []byte) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum)} }

// stuff makes file contents: of a layer's files half are random and half are
// text, in runs, as programs and documents lie side by side in real images.
type stuff struct {
	rng          *rand.Rand
	noise, prose []byte
}

// pools are what contents are cut from. They are far larger than gzip's
// window, so that a repeat is no match.
var pools = sync.OnceValues(func() (noise, prose []byte) {
	rng := rand.New(rand.NewPCG(1, 1))
	noise = make([]byte, 8<<20)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	for len(prose) < 8<<20 {
		prose = append(prose, words[rng.IntN(len(words))]...)
		prose = strconv.AppendInt(append(prose, ' '), rng.Int64N(1000), 10)
		prose = append(prose, ' ')
	}
	return noise, prose
})

// newStuff makes contents that are the same for the same seed.
func newStuff(seed uint64) *stuff {
	noise, prose := pools()
	return &stuff{rng: rand.New(rand.NewPCG(seed, 2)), noise: noise, prose: prose}
}

var words = strings.Fields(`the of and container image layer kernel mount process signal socket path file
	directory name space network bridge address memory page cache write read open close return value error
	string table index record state event time clock wait start stop create remove pull push digest`)

// write puts n bytes of one kind into w, in pieces from random places.
func (s *stuff) write(w io.Writer, n int, random bool) error {
	pool := s.prose
	if random {
		pool = s.noise
	}
	for n > 0 {
		k := min(64<<10, n)
		at := s.rng.IntN(len(pool) - k)
		if _, err := w.Write(pool[at : at+k]); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// fileTime is every file's time, so that layers are the same in every run.
var fileTime = time.Unix(1_700_000_000, 0)

// files fills a tar with count files of together size bytes, a hundred to a
// directory; sizes vary from a fifth of the mean to nine fifths.
func (s *stuff) files(tw *tar.Writer, prefix string, count, size int) error {
	mean := size / count
	for i := range count {
		dir := fmt.Sprintf("%s/d%03d", prefix, i/100)
		if i%100 == 0 {
			if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: fileTime}); err != nil {
				return err
			}
		}
		n := mean
		if count > 1 { // pairs of one smaller and one larger keep the sum
			off := mean * 4 / 5 * (i/2%5 + 1) / 5
			n += off * (1 - 2*(i%2))
		}
		err := tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("%s/f%05d", dir, i), Mode: 0o644, Size: int64(n), ModTime: fileTime})
		if err != nil {
			return err
		}
		if err := s.write(tw, n, i/max(1, count/64)%2 == 0); err != nil {
			return err
		}
	}
	return nil
}
