package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/image/registry"
)

// canned is a source that answers everything with the same bytes.
type canned struct{ manifests, config []byte }

func (c canned) Manifest(context.Context, digest.Digest) (registry.Manifest, error) {
	return registry.Manifest{Digest: digest.FromBytes(c.manifests), Raw: c.manifests}, nil
}

func (c canned) Document(context.Context, digest.Digest) ([]byte, error) { return c.config, nil }

func (c canned) Blob(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("")), nil
}

// FuzzManifest: whatever a registry sends as manifest, index and configuration, the
// answer is an error, or an image that is consistent.
func FuzzManifest(f *testing.F) {
	d := digest.FromString("x")
	manifest := fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[{"digest":%q,"size":1}]}`, ocispec.MediaTypeImageConfig, d, d)
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"digest":%q,"platform":{"os":"linux","architecture":"amd64"}}]}`, d)
	config := fmt.Sprintf(`{"rootfs":{"type":"layers","diff_ids":[%q]}}`, d)
	f.Add([]byte(manifest), []byte(manifest), []byte(config))
	f.Add([]byte(index), []byte(manifest), []byte(config))
	f.Add([]byte(index), []byte(index), []byte(`{}`))
	f.Add([]byte(`{"manifests":[],"layers":null}`), []byte(`null`), []byte(`[]`))
	f.Add([]byte(strings.ReplaceAll(manifest, "image.config", "other")), []byte(`1`), []byte(`"`))
	s := examiner{platform: platform{os: "linux", arch: "amd64", variants: []string{""}}, maxLayers: 500}
	f.Fuzz(func(t *testing.T, root, next, config []byte) {
		m := registry.Manifest{Digest: digest.FromBytes(root), Raw: root}
		got, err := s.examine(t.Context(), canned{next, config}, m)
		if err != nil {
			return
		}
		r := &record{ID: got.id(), Artifact: got.artifact, Config: got.config, Manifest: got.manifest.Raw, Layers: got.layers}
		if err := r.parse(); err != nil {
			t.Fatalf("an image that was accepted can't be listed: %v", err)
		}
		for _, l := range got.layers {
			if len(l.ChainID) != len("sha256:")+64 || !isHex(l.ChainID[7:]) || digest.Digest(l.Digest).Validate() != nil {
				t.Fatalf("layer %+v", l)
			}
		}
		if raw, err := json.Marshal(r); err != nil || len(raw) == 0 {
			t.Fatal(err)
		}
	})
}

// CVE-2021-41190: a document that is a manifest and an index, by its fields or by
// what it is called, is one thing to the signer and another to the runtime.
func TestAttackAmbiguousManifest(t *testing.T) {
	d := digest.FromString("x")
	config := fmt.Appendf(nil, `{"rootfs":{"type":"layers","diff_ids":[%q]}}`, d)
	image := fmt.Sprintf(`"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"digest":%q,"size":1}]`, ocispec.MediaTypeImageConfig, digest.FromBytes(config), len(config), d)
	manifest := "{" + image + "}"
	index := fmt.Sprintf(`"manifests":[{"digest":%q,"platform":{"os":"linux","architecture":"amd64"}}]`, digest.FromString(manifest))
	named := func(mediaType, fields string) string { return fmt.Sprintf(`{"mediaType":%q,%s}`, mediaType, fields) }
	s := examiner{platform: platform{os: "linux", arch: "amd64", variants: []string{""}}, maxLayers: 500}
	for name, c := range map[string]struct {
		raw, header string
		fine        bool
	}{
		"manifest":                         {manifest, ocispec.MediaTypeImageManifest, true},
		"manifest of no type":              {manifest, "", true},
		"manifest with a null":             {"{" + image + `,"manifests":null}`, "", true},
		"index":                            {"{" + index + `,"layers":null}`, ocispec.MediaTypeImageIndex, true},
		"both":                             {"{" + image + "," + index + "}", ocispec.MediaTypeImageManifest, false},
		"both in other letters":            {"{" + image + "," + strings.ToUpper(index[:11]) + index[11:] + "}", "", false},
		"index with layers":                {"{" + index + `,"layers":[]}`, "", false},
		"manifest called an index":         {named(ocispec.MediaTypeImageIndex, image), "", false},
		"index called a manifest":          {named(ocispec.MediaTypeImageManifest, index), "", false},
		"manifest under an index's header": {named(ocispec.MediaTypeImageManifest, image), ocispec.MediaTypeImageIndex, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.examine(t.Context(), canned{[]byte(manifest), config}, registry.Manifest{Digest: digest.FromString(c.raw), Raw: []byte(c.raw), MediaType: c.header})
			if c.fine != (err == nil) || err != nil && !strings.Contains(err.Error(), "at once") {
				t.Errorf("%s: %v", c.raw, err)
			}
		})
	}
}

// FuzzIndex: what is chosen of an index is in it, and for this platform where the
// index says what its manifests are for.
func FuzzIndex(f *testing.F) {
	d := digest.FromString("x")
	f.Add(fmt.Appendf(nil, `{"manifests":[{"digest":%q,"platform":{"os":"linux","architecture":"amd64","variant":"v2"}},{"digest":%q}]}`, d, d))
	f.Add(fmt.Appendf(nil, `{"manifests":[{"digest":%q}]}`, d))
	f.Add([]byte(`{"manifests":[{"platform":{"os":"windows"}},{"platform":null}],"config":null}`))
	p := platform{os: "linux", arch: "amd64", variants: []string{"v1", ""}}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var e either
		if json.Unmarshal(raw, &e) != nil {
			return
		}
		got, err := p.choose(e.Manifests)
		if err != nil {
			return
		}
		if q := got.Platform; q == nil && len(e.Manifests) != 1 || q != nil && (q.OS != p.os || q.Architecture != p.arch || !slices.Contains(p.variants, q.Variant)) {
			t.Fatalf("of %s it took %+v", raw, got)
		}
	})
}

// FuzzConfig: an image whose configuration is accepted can be listed, and has the
// layers its manifest has.
func FuzzConfig(f *testing.F) {
	d := digest.FromString("x")
	f.Add(uint8(1), fmt.Appendf(nil, `{"config":{"User":"7:8","Env":["A=b"],"Volumes":{"/v":{}}},"rootfs":{"diff_ids":[%q]}}`, d))
	f.Add(uint8(2), fmt.Appendf(nil, `{"created":"2020-01-01T00:00:00Z","rootfs":{"diff_ids":[%q,%q]},"history":[{"empty_layer":true}]}`, d, d))
	f.Add(uint8(0), []byte(`{"rootfs":{"diff_ids":null},"config":{"Cmd":"not a list"}}`))
	s := examiner{platform: platform{os: "linux", arch: "amd64", variants: []string{""}}, maxLayers: 500}
	f.Fuzz(func(t *testing.T, layers uint8, config []byte) {
		m := ocispec.Manifest{Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}}
		for range layers {
			m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: 1})
		}
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.examine(t.Context(), canned{config: config}, registry.Manifest{Digest: digest.FromBytes(raw), Raw: raw})
		if err != nil {
			return
		}
		r := &record{ID: got.id(), Config: got.config, Manifest: got.manifest.Raw, Layers: got.layers}
		err = r.parse()
		if img := newImage(r, nil); err != nil || len(img.Layers) != int(layers) || img.ID != digest.FromBytes(config).String() {
			t.Fatalf("%d layers: %+v, %v", layers, img, err)
		}
	})
}
