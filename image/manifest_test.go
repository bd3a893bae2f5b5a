package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/image/registry"
)

// canned is a source that answers everything with the same bytes.
type canned struct{ manifests, config []byte }

func (c canned) manifest(context.Context, digest.Digest) (registry.Manifest, error) {
	return registry.Manifest{Digest: digest.FromBytes(c.manifests), Raw: c.manifests}, nil
}

func (c canned) document(context.Context, ocispec.Descriptor) ([]byte, error) { return c.config, nil }

func (c canned) blob(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
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
	s := &Store{opts: Options{}.withDefaults(), platform: platform{os: "linux", arch: "amd64", variants: []string{""}}}
	f.Fuzz(func(t *testing.T, root, next, config []byte) {
		m := registry.Manifest{Digest: digest.FromBytes(root), Raw: root}
		got, err := s.examine(t.Context(), canned{next, config}, m)
		if err != nil {
			return
		}
		r := &record{ID: got.id(), Artifact: got.artifact, Config: got.config, Manifest: got.manifest.Raw, Layers: got.layers}
		if _, err := newImage(r, nil); err != nil {
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
