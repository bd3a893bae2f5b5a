package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func testRegistry(t *testing.T) *loopback {
	t.Helper()
	l, err := serveRegistry(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.close() })
	return l
}

func TestShapeIsServedWhole(t *testing.T) {
	l := testRegistry(t)
	img, err := l.publishShape(t.Context(), shape{name: "small", layers: 2, files: 250, size: mib}, 1)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(img.ref)
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := got.Layers()
	if err != nil || len(layers) != 2 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	for _, layer := range layers {
		checkLayer(t, layer)
	}
	l.drop(img)
	if left, _ := filepath.Glob(filepath.Join(l.blobs, "*")); len(left) != 1 {
		t.Errorf("after drop the registry holds %v, want the config alone", left)
	}
}

// checkLayer unpacks a layer in its head: digests, count, sum of sizes, ratio.
func checkLayer(t *testing.T, layer v1.Layer) {
	t.Helper()
	blob, err := layer.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	gz, err := gzip.NewReader(blob)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	plain := io.TeeReader(gz, sum)
	files, size := 0, int64(0)
	for tr := tar.NewReader(plain); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			files, size = files+1, size+h.Size
		}
	}
	if _, err := io.Copy(io.Discard, plain); err != nil {
		t.Fatal(err)
	}
	if diffID, err := layer.DiffID(); err != nil || diffID != hash(sum.Sum(nil)) {
		t.Errorf("diffID %v, %v; the tar has %v", diffID, err, hash(sum.Sum(nil)))
	}
	if files != 250 || size < mib*9/10 || size > mib*11/10 {
		t.Errorf("%d files of %d bytes, want 250 of about %d", files, size, mib)
	}
	if blobSize, err := layer.Size(); err != nil || blobSize < size/3 || blobSize > size*4/5 {
		t.Errorf("%d bytes are %d compressed, want about a half to two thirds (%v)", size, blobSize, err)
	}
}

func TestBlobRanges(t *testing.T) {
	l := testRegistry(t)
	sum := sha256.Sum256([]byte("hello"))
	digest := hash(sum[:])
	if err := l.add(digest, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodGet, l.blobURL("x", digest), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Range", "bytes=1-") // pkg/registry alone refuses an open end
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusPartialContent || string(body) != "ello" {
		t.Errorf("%s %q", resp.Status, body)
	}
}

func TestCountSyncs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "strace")
	const text = "syscall              calls\n---------------- ---------\nfdatasync               12\nfsync                   30\n---------------- ---------\ntotal                   42\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if n, err := countSyncs(path); n != 42 || err != nil {
		t.Errorf("countSyncs = %d, %v, want 42", n, err)
	}
	if err := os.WriteFile(path, []byte("fsync many\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := countSyncs(path); err == nil || !strings.Contains(err.Error(), "many") {
		t.Errorf("a table that cannot be read: %v", err)
	}
}
