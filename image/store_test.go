package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"berth/image/layer"
	"berth/oci/dirtree"
)

// entry is one file of a layer; a name that ends in / is a directory.
type entry struct{ name, body string }

func layerTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.body)), ModTime: time.Unix(1_700_000_000, 0)}
		if strings.HasSuffix(e.name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func layerOf(t testing.TB, data []byte, opts ...tarball.LayerOption) v1.Layer {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imageOf(t testing.TB, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return configured(t, img, "linux", "amd64")
}

func configured(t testing.TB, img v1.Image, osName, arch string) v1.Image {
	t.Helper()
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = osName, arch
	cfg.Config.Entrypoint = []string{"/bin/true"}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

// testRegistry is a registry on the loopback; handler may stand in front of it.
type testRegistry struct {
	*httptest.Server
	host string
}

func newRegistry(t testing.TB, wrap func(http.Handler) http.Handler) *testRegistry {
	t.Helper()
	var h http.Handler = ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	if wrap != nil {
		h = wrap(h)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return &testRegistry{srv, strings.TrimPrefix(srv.URL, "http://")}
}

func (r *testRegistry) push(t testing.TB, repo string, img remote.Taggable) string {
	t.Helper()
	ref, err := name.ParseReference(r.host + "/" + repo)
	if err != nil {
		t.Fatal(err)
	}
	switch x := img.(type) {
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, x)
	case v1.Image:
		err = remote.Write(ref, x)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r.host + "/" + repo
}

func openStore(t testing.TB, opts Options) *Store {
	t.Helper()
	if opts.Root == "" {
		opts.Root = t.TempDir()
	}
	if opts.retryBackoff == 0 {
		opts.retryBackoff = time.Millisecond
	}
	s, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func pullOK(t testing.TB, s *Store, ref string) *Image {
	t.Helper()
	img, err := s.Pull(t.Context(), PullRequest{Reference: ref})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// view mounts the image and gives the directory.
func view(t testing.TB, s *Store, img *Image, req MountRequest) string {
	t.Helper()
	req.Layers = img.Layers
	req.Target = filepath.Join(t.TempDir(), "view")
	if err := s.Mount(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(req.Target); err != nil {
			t.Error(err)
		}
	})
	return req.Target
}

func read(t testing.TB, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPullMountRemove(t *testing.T) {
	reg := newRegistry(t, nil)
	base := layerOf(t, layerTar(t, entry{"./", ""}, entry{"etc/", ""}, entry{"etc/a", "one"}, entry{"etc/b", "two"}, entry{"var/old/x", "x"}))
	top := layerOf(t, layerTar(t, entry{"etc/.wh.b", ""}, entry{"etc/c", "three"}, entry{"var/old/.wh..wh..opq", ""}, entry{"var/old/y", "y"}))
	ref := reg.push(t, "app:v1", imageOf(t, base, top))
	s := openStore(t, Options{})
	img := pullOK(t, s, ref)
	if len(img.Layers) != 2 || len(img.Tags) != 1 || img.Tags[0] != ref || img.Config.Entrypoint[0] != "/bin/true" {
		t.Fatalf("%+v", img)
	}
	dir := view(t, s, img, MountRequest{})
	if read(t, dir, "etc/a") != "one" || read(t, dir, "etc/c") != "three" || read(t, dir, "var/old/y") != "y" {
		t.Error("content differs")
	}
	for _, gone := range []string{"etc/b", "var/old/x"} {
		if _, err := os.Lstat(filepath.Join(dir, gone)); !os.IsNotExist(err) {
			t.Errorf("%s: %v", gone, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); err == nil {
		t.Error("the read-only view can be written")
	}
	sameAsDu(t, s)

	again := reg.push(t, "app:v2", imageOf(t, base, top))
	if other := pullOK(t, s, again); other.ID != img.ID || len(other.Tags) != 2 {
		t.Errorf("the same image under another tag is %+v", other)
	}
	for _, name := range []string{img.ID, img.ID[7:], img.ID[7:19], "sha256:" + img.ID[7:12], ref, again, img.Digests[0]} {
		if got, err := s.Get(name); err != nil || got.ID != img.ID {
			t.Errorf("Get(%s): %v", name, err)
		}
	}
	if err := s.Remove(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if len(s.List()) != 0 {
		t.Error("removing one tag left the image")
	}
	if err := s.Remove(t.Context(), ref); err != nil {
		t.Errorf("removing it again: %v", err)
	}
	if left := layerDirs(t, s); len(left) != 0 {
		t.Errorf("layers left: %v", left)
	}
}

// sameAsDu compares the store's own figure with du's.
// sameAsDu compares the usage that the store tells with that on the disk. A layer is
// measured before it is flushed, and ext4 may allocate a block for the extents of a file
// when it writes the file back: that block is on the disk alone.
func sameAsDu(t testing.TB, s *Store) {
	t.Helper()
	late := uint64(os.Getpagesize() * len(layerDirs(t, s)))
	u, err := s.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	u1, err1 := dirtree.Measure(t.Context(), s.cat.dir)
	u2, err2 := dirtree.Measure(t.Context(), s.pool.dir)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if disk := u1.Bytes + u2.Bytes; u.Bytes > disk || u.Bytes+late < disk || u.Inodes != u1.Inodes+u2.Inodes {
		t.Errorf("Usage says %d bytes, %d inodes; the disk has %d, %d", u.Bytes, u.Inodes, u1.Bytes+u2.Bytes, u1.Inodes+u2.Inodes)
	}
}

func layerDirs(t testing.TB, s *Store) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(s.pool.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != emptyDir {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestHold(t *testing.T) {
	reg := newRegistry(t, nil)
	l := layerOf(t, layerTar(t, entry{"f", "x"}))
	ref := reg.push(t, "held", imageOf(t, l))
	root := t.TempDir()
	s := openStore(t, Options{Root: root})
	img := pullOK(t, s, ref)
	if err := s.Hold("c1", img.Layers); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if len(layerDirs(t, s)) != 1 {
		t.Fatal("a held layer was deleted")
	}
	s.Close()

	s, err := Open(Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Hold("c1", img.Layers); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(t.Context()); err != nil || len(layerDirs(t, s)) != 1 {
		t.Fatalf("Sweep deleted a held layer: %v", err)
	}
	s.Release("c1")
	if left := layerDirs(t, s); len(left) != 0 {
		t.Fatalf("left after Release: %v", left)
	}
	if err := s.Hold("c2", img.Layers); err == nil {
		t.Error("a layer that is gone could be held")
	}
}

// A repair under a running container leaves it all its files, over restarts.
func TestRepairUnderAHold(t *testing.T) {
	reg := newRegistry(t, nil)
	lower, upper := layerOf(t, layerTar(t, entry{"f", "x"})), layerOf(t, layerTar(t, entry{"g", "y"}))
	ref := reg.push(t, "held", imageOf(t, lower, upper))
	root := t.TempDir()
	s := openStore(t, Options{Root: root})
	img := pullOK(t, s, ref)
	if err := s.Hold("c1", img.Layers); err != nil {
		t.Fatal(err)
	}
	spoiled := filepath.Join(s.pool.path(img.Layers[0]), layer.FSDir, "f")
	if err := os.WriteFile(spoiled, []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	if rep, err := s.Check(t.Context(), true); err != nil || len(rep.Problems) == 0 || !rep.Problems[0].Repaired {
		t.Fatalf("%+v, %v", rep, err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		var err error
		if s, err = Open(Options{Root: root}); err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := errors.Join(s.Hold("c1", img.Layers), s.Sweep(t.Context())); err != nil {
			t.Error(err)
		}
		for _, file := range []string{"f", "g"} {
			left, err := filepath.Glob(filepath.Join(root, "layers", "*", layer.FSDir, file))
			if err != nil || len(left) != 1 {
				t.Errorf("after a restart the file %s is at %q, %v; want it at one place", file, left, err)
			}
		}
	}
	if len(s.List()) != 0 {
		t.Error("the damaged image is listed")
	}
	s.Release("c1")
	if left := layerDirs(t, s); len(left) != 0 {
		t.Errorf("left after Release: %v", left)
	}
}

func TestWritableAndZeroLayers(t *testing.T) {
	reg := newRegistry(t, nil)
	s := openStore(t, Options{})
	for n, img := range map[string]*Image{
		"none": pullOK(t, s, reg.push(t, "none", imageOf(t))),
		"one":  pullOK(t, s, reg.push(t, "one", imageOf(t, layerOf(t, layerTar(t, entry{"etc/f", "low"}))))),
	} {
		up := t.TempDir()
		dir := view(t, s, img, MountRequest{Upper: up + "/u", Work: up + "/w"})
		if err := os.WriteFile(dir+"/new", []byte("n"), 0o600); err != nil {
			t.Errorf("%s: %v", n, err)
		}
		if read(t, up, "u/new") != "n" {
			t.Errorf("%s: the write is not in the upper directory", n)
		}
		view(t, s, img, MountRequest{})
		if img.Size == 0 {
			t.Errorf("%s: size 0", n)
		}
	}
}

func TestManyLayers(t *testing.T) {
	reg := newRegistry(t, nil)
	var layers []v1.Layer
	for i := range 200 {
		layers = append(layers, layerOf(t, layerTar(t, entry{"f", fmt.Sprint(i)}, entry{fmt.Sprintf("d/%d", i), "x"})))
	}
	s := openStore(t, Options{})
	img := pullOK(t, s, reg.push(t, "many", imageOf(t, layers...)))
	up := t.TempDir()
	dir := view(t, s, img, MountRequest{Upper: up + "/u", Work: up + "/w"})
	if read(t, dir, "f") != "199" {
		t.Error("the topmost layer does not win")
	}
	if names, _ := os.ReadDir(dir + "/d"); len(names) != 200 {
		t.Errorf("%d files of 200 layers", len(names))
	}
}

func TestIDMapped(t *testing.T) {
	reg := newRegistry(t, nil)
	s := openStore(t, Options{})
	img := pullOK(t, s, reg.push(t, "mapped", imageOf(t, layerOf(t, layerTar(t, entry{"f", "x"})), layerOf(t, layerTar(t, entry{"g", "x"})))))
	up := t.TempDir()
	maps := []IDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
	dir := view(t, s, img, MountRequest{Upper: up + "/u", Work: up + "/w", UIDMap: maps, GIDMap: maps})
	for _, p := range []string{"f", "g", "."} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, p), &st); err != nil || st.Uid != 100000 || st.Gid != 100000 {
			t.Errorf("%s belongs to %d:%d, %v", p, st.Uid, st.Gid, err)
		}
	}
}

func TestFormats(t *testing.T) {
	reg := newRegistry(t, nil)
	data := layerTar(t, entry{"f", strings.Repeat("data ", 10_000)})
	s := openStore(t, Options{})
	raw := layerTar(t, entry{"g", "plain"})
	images := map[string]v1.Image{
		"gzip":  imageOf(t, layerOf(t, data)),
		"zstd":  imageOf(t, layerOf(t, data, tarball.WithCompression("zstd"), tarball.WithMediaType(types.OCILayerZStd))),
		"plain": imageOf(t, static.NewLayer(raw, types.OCIUncompressedLayer)),
		"oci":   mutate.ConfigMediaType(mutate.MediaType(imageOf(t, layerOf(t, data, tarball.WithMediaType(types.OCILayer))), types.OCIManifestSchema1), types.OCIConfigJSON),
		"empty": imageOf(t, layerOf(t, layerTar(t))),
	}
	for n, i := range images {
		img := pullOK(t, s, reg.push(t, n, i))
		dir := view(t, s, img, MountRequest{})
		if n == "gzip" && len(read(t, dir, "f")) != 50_000 || n == "plain" && read(t, dir, "g") != "plain" {
			t.Errorf("%s: content differs", n)
		}
	}
}

func TestPlatform(t *testing.T) {
	reg := newRegistry(t, nil)
	idx := v1.ImageIndex(empty.Index)
	want := map[string]string{}
	for _, p := range []v1.Platform{{OS: "linux", Architecture: "arm64", Variant: "v8"}, {OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm", Variant: "v6"}, {OS: "linux", Architecture: "arm", Variant: "v7"}, {OS: "unknown", Architecture: "unknown"}} {
		img := configured(t, imageOf(t, layerOf(t, layerTar(t, entry{"arch", p.String()}))), p.OS, p.Architecture)
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}})
		d, _ := img.ConfigName()
		want[p.String()] = d.String()
	}
	ref := reg.push(t, "multi", idx)
	for platform, expect := range map[string]string{"linux/amd64": "linux/amd64", "linux/arm64": "linux/arm64/v8", "linux/arm/v7": "linux/arm/v7", "linux/arm/v6": "linux/arm/v6", "linux/arm": "linux/arm/v7"} {
		s := openStore(t, Options{platform: platform})
		img := pullOK(t, s, ref)
		if img.ID != want[expect] {
			t.Errorf("%s got another image than %s", platform, expect)
		}
		d, _ := idx.Digest()
		if !strings.HasSuffix(img.Digests[0], d.String()) {
			t.Errorf("digest is %s, the index is %s", img.Digests[0], d)
		}
		if again := pullOK(t, s, ref); again.ID != img.ID {
			t.Error("pulled again it is another image")
		}
	}
	s := openStore(t, Options{platform: "linux/riscv64"})
	_, err := s.Pull(context.Background(), PullRequest{Reference: ref})
	if err == nil || !strings.Contains(err.Error(), "linux/arm64/v8") {
		t.Errorf("riscv64: %v", err)
	}
}
