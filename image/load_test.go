package image

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func sampleImage(t testing.TB) v1.Image {
	return imageOf(t,
		layerOf(t, layerTar(t, entry{"./", ""}, entry{"etc/", ""}, entry{"etc/a", "one"}, entry{"etc/a", "replaced"})),
		layerOf(t, layerTar(t, entry{"etc/.wh.a", ""}, entry{"b", strings.Repeat("b", 300_000)})))
}

func dockerArchive(t testing.TB, img v1.Image, tag string) []byte {
	t.Helper()
	var b bytes.Buffer
	ref, err := name.NewTag(tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.Write(ref, img, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func idOf(t testing.TB, img v1.Image) string {
	t.Helper()
	d, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func TestLoadExport(t *testing.T) {
	sample := sampleImage(t)
	data := dockerArchive(t, sample, "berth.test/sample:v1")
	file := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	opened, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(data)
	z.Close()
	for n, r := range map[string]io.Reader{"stream": bytes.NewReader(data), "file": opened, "gzip": &zipped} {
		s := openStore(t, Options{})
		imgs, err := s.Load(t.Context(), r, LoadOptions{})
		if err != nil {
			t.Fatalf("%s: %v", n, err)
		}
		if len(imgs) != 1 || imgs[0].ID != idOf(t, sample) || imgs[0].Tags[0] != "berth.test/sample:v1" {
			t.Fatalf("%s: %+v", n, imgs)
		}
		left, _ := os.ReadDir(s.cat.dir)
		if len(left) != 2 { // the lock and the record
			t.Errorf("%s left %v", n, left)
		}
		var out bytes.Buffer
		if err := s.Export(t.Context(), []string{"berth.test/sample:v1"}, &out); err != nil {
			t.Fatalf("%s: export: %v", n, err)
		}
		reload(t, out.Bytes(), imgs[0].ID)
	}
}

// reload loads an exported archive in all its forms.
func reload(t *testing.T, data []byte, id string) {
	t.Helper()
	s := openStore(t, Options{})
	imgs, err := s.Load(t.Context(), bytes.NewReader(data), LoadOptions{})
	if err != nil || len(imgs) != 1 || imgs[0].ID != id || imgs[0].Tags[0] != "berth.test/sample:v1" {
		t.Fatalf("load what was exported: %v %+v", err, imgs)
	}
	dir := t.TempDir()
	cmd := exec.Command("tar", "-x", "-C", dir)
	cmd.Stdin = bytes.NewReader(data)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	if imgs, err = openStore(t, Options{}).LoadDir(t.Context(), dir, LoadOptions{}); err != nil || imgs[0].ID != id {
		t.Fatalf("load its directory: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "index.json")); err != nil {
		t.Fatal(err)
	}
	if imgs, err = openStore(t, Options{}).LoadDir(t.Context(), dir, LoadOptions{}); err != nil || imgs[0].ID != id {
		t.Fatalf("load it as docker's: %v", err)
	}
	tag, _ := name.NewTag("berth.test/sample:v1")
	file := filepath.Join(dir, "again.tar")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if img, err := tarball.ImageFromPath(file, &tag); err != nil || idOf(t, img) != id {
		t.Errorf("another tool reads it as: %v", err)
	}
}

func TestLoadLayout(t *testing.T) {
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	sample := sampleImage(t)
	idx := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: configured(t, sample, "linux", "s390x"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: sample, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	if err := p.AppendIndex(idx); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, Options{platform: "linux/amd64"})
	imgs, err := s.LoadDir(t.Context(), dir, LoadOptions{Name: "named"})
	if err != nil {
		t.Fatal(err)
	}
	if imgs[0].ID != idOf(t, sample) || imgs[0].Tags[0] != "docker.io/library/named:latest" || len(imgs[0].Digests) != 1 {
		t.Errorf("%+v", imgs[0])
	}
}

func TestLoadBad(t *testing.T) {
	s := openStore(t, Options{})
	data := dockerArchive(t, sampleImage(t), "x:y")
	for n, b := range map[string][]byte{
		"empty": {}, "no tar": bytes.Repeat([]byte("x"), 2000), "empty tar": layerTar(t), "cut": data[:len(data)/2],
		"no layer": layerTar(t, entry{"manifest.json", `[{"Config":"c.json","Layers":["../../etc/passwd"]}]`}, entry{"c.json", `{}`}),
	} {
		if _, err := s.Load(t.Context(), bytes.NewReader(b), LoadOptions{}); err == nil {
			t.Errorf("%s was loaded", n)
		}
	}
	if left := layerDirs(t, s); len(left) != 0 || len(s.List()) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestCheck(t *testing.T) {
	s := openStore(t, Options{})
	imgs, err := s.Load(t.Context(), bytes.NewReader(dockerArchive(t, sampleImage(t), "x:y")), LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rep, err := s.Check(t.Context(), false)
	if err != nil || len(rep.Problems) != 0 || rep.Layers != 2 {
		t.Fatalf("%+v %v", rep, err)
	}
	f := filepath.Join(s.pool.path(imgs[0].Layers[1]), "fs", "b")
	if err := os.WriteFile(f, []byte("tampered"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Export(t.Context(), []string{"x:y"}, io.Discard); err == nil {
		t.Error("a damaged layer was exported")
	}
	if err := s.Hold("c", imgs[0].Layers); err != nil {
		t.Fatal(err)
	}
	rep, err = s.Check(t.Context(), true)
	if err != nil || len(rep.Problems) == 0 || !rep.Problems[0].Repaired || rep.Problems[0].Image != imgs[0].ID {
		t.Fatalf("%+v %v", rep, err)
	}
	if len(s.List()) != 0 {
		t.Error("the broken image is listed")
	}
	if _, err = s.Load(t.Context(), bytes.NewReader(dockerArchive(t, sampleImage(t), "x:y")), LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	if rep, err := s.Check(t.Context(), false); err != nil || len(rep.Problems) != 0 {
		t.Errorf("after loading again: %+v %v", rep, err)
	}
	s.Release("c")
	if rep, err := s.Check(t.Context(), false); err != nil || len(rep.Problems) != 0 {
		t.Errorf("after the release: %+v %v", rep, err)
	}
}
