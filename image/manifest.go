package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/image/registry"
)

const maxIndexDepth = 3

// source provides the documents and blobs of an image. A [registry.Repository] and an
// [archive] are sources.
type source interface {
	// Manifest returns the manifest or index with this digest, verified.
	Manifest(ctx context.Context, d digest.Digest) (registry.Manifest, error)
	// Document returns a blob of at most [registry.MaxDocument] bytes, verified.
	Document(ctx context.Context, d digest.Digest) ([]byte, error)
	// Blob opens a blob. The caller has to verify its digest.
	Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
}

// found is an image whose manifest and configuration are known and consistent.
type found struct {
	root     digest.Digest // of the index or manifest that the image's name refers to
	manifest registry.Manifest
	parsed   ocispec.Manifest
	config   []byte
	artifact bool
	served   served
	layers   []layerRecord // ChainID, DiffID, Digest, MediaType, BlobSize
	urls     map[string][]string
}

// either has the fields of a manifest and of an index, to find out which of the two a
// document is.
type either struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
	Config        *ocispec.Descriptor  `json:"config"`
	Layers        []struct{}           `json:"layers"`
	FSLayers      []struct{}           `json:"fsLayers"`
}

// ambiguous reports whether the document could be read both as a manifest and as an index.
// Such a document is refused: it could be checked or signed as one and run as the other
// (CVE-2021-41190). A field that is null counts as missing. mediaType is from the document
// or from the registry, and may be empty or too general to decide.
func (e either) ambiguous(mediaType string) bool {
	index := e.Manifests != nil
	manifest := e.Config != nil || e.Layers != nil
	kind := types.MediaType(mediaType)
	return index && (manifest || kind.IsImage()) || manifest && kind.IsIndex()
}

func (e either) schema1(mediaType string) bool {
	return e.SchemaVersion == 1 || types.MediaType(mediaType).IsSchema1() || e.FSLayers != nil
}

// examiner reads manifests and configurations, and refuses inconsistent ones.
type examiner struct {
	platform  platform // whose manifest is chosen from an index
	maxLayers int      // of one image
}

// descend returns the manifest for this platform, fetched and parsed: root itself or, if
// root is an index, a manifest in it.
func (x examiner) descend(ctx context.Context, src source, root registry.Manifest) (registry.Manifest, ocispec.Manifest, error) {
	m := root
	for range maxIndexDepth {
		var e either
		if err := registry.Decode(m.Raw, &e); err != nil {
			return m, ocispec.Manifest{}, corrupt("%s is no manifest: %v", m.Digest, err)
		}
		if e.ambiguous(m.MediaType) || e.ambiguous(e.MediaType) {
			return m, ocispec.Manifest{}, corrupt("%s (%s) is a manifest and an index at once; push the image again with another tool", m.Digest, m.MediaType)
		}
		if e.MediaType != "" {
			m.MediaType = e.MediaType
		}
		switch {
		case e.schema1(m.MediaType):
			return m, ocispec.Manifest{}, fmt.Errorf("%w: it is in docker's schema 1 form, which was given up in 2017; push it again with a current tool", ErrCorrupt)
		case e.Config != nil:
			parsed, err := parseManifest(&m)
			return m, parsed, err
		case e.Manifests == nil:
			return m, ocispec.Manifest{}, corrupt("%s (%.100q) is neither a manifest nor an index", m.Digest, m.MediaType)
		}
		var err error
		if m, err = x.pick(ctx, src, e.Manifests); err != nil {
			return m, ocispec.Manifest{}, err
		}
	}
	return m, ocispec.Manifest{}, corrupt("indexes nested more than %d deep", maxIndexDepth)
}

// maxUnsaid is the number of entries of an index without a platform whose configurations
// are fetched to find the platform.
const maxUnsaid = 8

// pick chooses the manifest for this platform from an index and fetches it. If no entry
// names this platform, it looks for the platform in the configurations of the entries that
// name none.
func (x examiner) pick(ctx context.Context, src source, list []ocispec.Descriptor) (registry.Manifest, error) {
	d, none := x.platform.choose(list)
	if none == nil {
		return src.Manifest(ctx, d.Digest)
	}
	for _, d := range unsaid(list) {
		m, err := src.Manifest(ctx, d.Digest)
		if err != nil {
			return m, err
		}
		if m.MediaType == "" {
			m.MediaType = d.MediaType
		}
		if ok, err := x.madeForHere(ctx, src, m); ok || err != nil {
			return m, err
		}
	}
	return registry.Manifest{}, none
}

// unsaid returns the entries that may be images and name no platform.
func unsaid(list []ocispec.Descriptor) []ocispec.Descriptor {
	var out []ocispec.Descriptor
	for _, d := range list {
		says := d.Platform != nil && d.Platform.OS != ""
		if !says && isImageConfig(d.ArtifactType) && d.Annotations["vnd.docker.reference.type"] == "" && len(out) < maxUnsaid {
			out = append(out, d)
		}
	}
	return out
}

// madeForHere reports whether a manifest is for this platform according to its
// configuration.
func (x examiner) madeForHere(ctx context.Context, src source, m registry.Manifest) (bool, error) {
	var e either
	if registry.Decode(m.Raw, &e) != nil || e.Config == nil || !isImageConfig(e.Config.MediaType) || e.Config.Digest.Validate() != nil {
		return false, nil
	}
	raw, err := src.Document(ctx, e.Config.Digest)
	if err != nil {
		return false, err
	}
	var config ocispec.Platform
	return registry.Decode(raw, &config) == nil && config.OS == x.platform.os && config.Architecture == x.platform.arch, nil
}

func parseManifest(m *registry.Manifest) (ocispec.Manifest, error) {
	var parsed ocispec.Manifest
	if err := registry.Decode(m.Raw, &parsed); err != nil {
		return parsed, corrupt("manifest %s: %v", m.Digest, err)
	}
	if parsed.MediaType == "" {
		parsed.MediaType = m.MediaType
	}
	if m.MediaType == "" {
		m.MediaType = ocispec.MediaTypeImageManifest
	}
	for _, d := range append(parsed.Layers, parsed.Config) {
		if err := d.Digest.Validate(); err != nil || d.Size < 0 {
			return parsed, corrupt("manifest %s: descriptor %.100q of %d bytes", m.Digest, d.Digest, d.Size)
		}
	}
	return parsed, nil
}

// examine fetches the configuration of the image at root and determines its layers.
func (x examiner) examine(ctx context.Context, src source, root registry.Manifest) (*found, error) {
	m, parsed, err := x.descend(ctx, src, root)
	if err != nil {
		return nil, err
	}
	f := &found{root: root.Digest, manifest: m, parsed: parsed, urls: map[string][]string{}}
	f.artifact = parsed.ArtifactType != "" && parsed.Config.MediaType == ocispec.MediaTypeEmptyJSON || !isImageConfig(parsed.Config.MediaType)
	if len(parsed.Layers) > x.maxLayers {
		return nil, corrupt("%d layers; overlayfs can stack %d", len(parsed.Layers), x.maxLayers)
	}
	if f.artifact {
		f.config = []byte("{}")
		f.served, err = serve(imageConfig{}, parsed)
		return f, errors.Join(err, f.artifactLayers())
	}
	if f.config, err = src.Document(ctx, parsed.Config.Digest); err != nil {
		return nil, err
	}
	return f, f.imageLayers()
}

func isImageConfig(mediaType string) bool {
	return types.MediaType(mediaType).IsConfig() || mediaType == "" ||
		mediaType == "application/octet-stream" // written by docker before 1.10
}

func (f *found) id() string {
	if f.artifact {
		return f.manifest.Digest.String()
	}
	return digest.FromBytes(f.config).String()
}

// imageLayers combines the manifest's layers with the configuration's diffIDs.
func (f *found) imageLayers() error {
	cfg, err := parseConfig(f.config)
	if err != nil {
		return err
	}
	if f.served, err = serve(cfg, f.parsed); err != nil {
		return err
	}
	diffs := cfg.RootFS.DiffIDs
	if len(diffs) != len(f.parsed.Layers) { // some tools store signatures, for example, as layers
		f.parsed.Layers = slices.DeleteFunc(f.parsed.Layers, func(d ocispec.Descriptor) bool { return !isLayer(d.MediaType) })
	}
	if len(diffs) != len(f.parsed.Layers) {
		return corrupt("%d layers in the manifest, %d in the configuration", len(f.parsed.Layers), len(diffs))
	}
	chain := make([]digest.Digest, len(diffs))
	for i, d := range diffs {
		if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			return corrupt("diffID %.100q", d)
		}
		chain[i] = d
	}
	identity.ChainIDs(chain)
	for i, d := range f.parsed.Layers {
		f.layers = append(f.layers, layerRecord{
			ChainID: chain[i].String(), DiffID: diffs[i].String(),
			Digest: d.Digest.String(), MediaType: d.MediaType, BlobSize: d.Size,
		})
		if len(d.URLs) > 0 {
			f.urls[d.Digest.String()] = d.URLs
		}
	}
	return nil
}

func isLayer(mediaType string) bool {
	return mediaType == "" || types.MediaType(mediaType).IsLayer() || strings.Contains(mediaType, "tar")
}
