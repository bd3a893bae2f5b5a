package image

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// TestUnsaidPlatform pulls indexes with entries that don't say their platform.
func TestUnsaidPlatform(t *testing.T) {
	reg := newRegistry(t, nil)
	l := layerOf(t, layerTar(t, entry{"f", "x"}))
	here := imageOf(t, l)
	there := configured(t, imageOf(t, l, layerOf(t, layerTar(t, entry{"g", "y"}))), "linux", "s390x")
	attestation := mutate.IndexAddendum{Add: imageOf(t), Descriptor: v1.Descriptor{
		Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}, Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest"},
	}}
	s := openStore(t, Options{platform: "linux/amd64"})
	for name, list := range map[string][]mutate.IndexAddendum{
		"alone":                  {{Add: here}},
		"beside an attestation":  {{Add: here}, attestation},
		"attestation first":      {attestation, {Add: here}},
		"its configuration says": {{Add: there}, {Add: here}},
		"beside another":         {{Add: there, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}}, {Add: here}},
	} {
		ref := reg.push(t, "idx:"+strings.ReplaceAll(name, " ", "-"), mutate.AppendManifests(empty.Index, list...))
		img, err := s.Pull(t.Context(), PullRequest{Reference: ref})
		if err != nil || img.ID != idOf(t, here) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ref := reg.push(t, "idx:none", mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: there}, attestation))
	if _, err := s.Pull(t.Context(), PullRequest{Reference: ref}); !errors.Is(err, ErrNotFound) {
		t.Errorf("an image for another platform: %v", err)
	}
}

// TestOtherBlobsAmongLayers pulls an image whose manifest lists what is no layer too.
func TestOtherBlobsAmongLayers(t *testing.T) {
	reg := newRegistry(t, nil)
	img := imageOf(t, layerOf(t, layerTar(t, entry{"f", "x"})))
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	diffs := cfg.RootFS.DiffIDs
	if img, err = mutate.AppendLayers(img, static.NewLayer([]byte(`{"signed":true}`), "application/vnd.in-toto+json")); err != nil {
		t.Fatal(err)
	}
	if cfg, err = img.ConfigFile(); err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.RootFS.DiffIDs, cfg.History = diffs, nil
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, Options{})
	got := pullOK(t, s, reg.push(t, "a", mutate.MediaType(img, types.OCIManifestSchema1)))
	if len(got.Layers) != 1 {
		t.Errorf("%d layers", len(got.Layers))
	}
}

// TestLoadCompressed loads archives compressed by the usual tools.
func TestLoadCompressed(t *testing.T) {
	img := sampleImage(t)
	data := dockerArchive(t, img, "berth.test/sample:v1")
	for _, tool := range [][]string{{"xz", "-9"}, {"bzip2"}, {"gzip"}} {
		if _, err := exec.LookPath(tool[0]); err != nil {
			t.Logf("without %s: it is not installed", tool[0])
			continue
		}
		cmd := exec.CommandContext(t.Context(), tool[0], append(tool[1:], "-c")...)
		cmd.Stdin = bytes.NewReader(data)
		packed, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "a.tar")
		if err := os.WriteFile(file, packed, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		s := openStore(t, Options{})
		got, err := s.Load(t.Context(), f, LoadOptions{})
		if err != nil || len(got) != 1 || got[0].ID != idOf(t, img) || len(got[0].Tags) != 1 {
			t.Errorf("%s: %+v %v", tool[0], got, err)
		}
		packed[len(packed)/2] ^= 0xff
		if _, err := openStore(t, Options{}).Load(t.Context(), bytes.NewReader(packed), LoadOptions{}); err == nil {
			t.Errorf("%s: damaged, it was loaded", tool[0])
		}
	}
}

// TestLoadNamesInManifestJSON loads layouts whose index names nothing, with docker's
// manifest.json beside it.
func TestLoadNamesInManifestJSON(t *testing.T) {
	img := sampleImage(t)
	id := idOf(t, img)
	for name, x := range map[string]struct {
		add    v1.ImageIndex
		config string
	}{
		"nested index":        {mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img})}), "blobs/sha256/" + id[7:]},
		"another file's name": {mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img}), "config.json"},
		"the configuration's": {mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img}), id[7:] + ".json"},
	} {
		dir := t.TempDir()
		if _, err := layout.Write(dir, x.add); err != nil {
			t.Fatal(err)
		}
		doc := fmt.Sprintf(`[{"Config":%q,"RepoTags":["berth.test/named:v1"],"Layers":[]}]`, x.config)
		if err := os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
		tarred, err := exec.CommandContext(t.Context(), "tar", "-C", dir, "-c", ".").Output()
		if err != nil {
			t.Fatal(err)
		}
		got, err := openStore(t, Options{}).Load(t.Context(), bytes.NewReader(tarred), LoadOptions{})
		if err != nil || len(got) != 1 || len(got[0].Tags) != 1 || got[0].Tags[0] != "berth.test/named:v1" {
			t.Errorf("%s: %+v %v", name, got, err)
		}
	}
}
