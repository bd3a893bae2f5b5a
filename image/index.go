package image

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/image/registry"
)

// Image is one image of the store as it was at one moment. It is immutable.
type Image struct {
	ID          string              // sha256:HEX, of the configuration (of the manifest, for an artifact)
	Tags        []string            // full names: docker.io/library/busybox:latest
	Digests     []string            // full names: docker.io/library/busybox@sha256:HEX
	Size        uint64              // bytes on disk; see the package documentation
	Pinned      bool                // the kubelet is asked not to garbage-collect it
	Artifact    bool                // an OCI artifact: files to mount, nothing to run
	Config      ocispec.ImageConfig // without labels and exposed ports; see [Store.RawConfig]
	Layers      []string            // ChainIDs, lowest first; what Mount and Hold take
	Annotations map[string]string
	CreatedAt   time.Time // from the image's configuration; zero if that has none
	PulledAt    time.Time
}

// hasNames reports whether the image has both names. An empty name counts as present.
func (img *Image) hasNames(tag, digestName string) bool {
	return (tag == "" || slices.Contains(img.Tags, tag)) &&
		(digestName == "" || slices.Contains(img.Digests, digestName))
}

// index is the catalogue at one moment. It is immutable.
type index struct {
	records  map[string]*record // by ID; see [record.slim]
	byID     map[string]*Image
	byName   map[string]*Image // tags and digests, full names
	byDigest map[string]*Image // digests of manifests and indexes, without a name
	sorted   []*Image          // the latest pull first
}

func newImage(r *record, pinned []string) *Image {
	img := &Image{
		ID: r.ID, Tags: r.Tags, Digests: r.Digests, Artifact: r.Artifact, Pinned: isPinned(r, pinned),
		Config: r.served.config, CreatedAt: r.served.created, Annotations: r.served.annotations,
		Layers: r.chains(), PulledAt: r.PulledAt, Size: uint64(r.documents),
	}
	for _, l := range r.Layers {
		img.Size += l.Bytes
	}
	return img
}

// newIndex returns the index of the records. It takes the images of unchanged records from
// old, which may be nil.
func newIndex(old *index, records map[string]*record, pinned []string) *index {
	ix := &index{records: records, byID: map[string]*Image{}, byName: map[string]*Image{}, byDigest: map[string]*Image{}}
	for id, r := range records {
		img := old.reuse(id, r)
		if img == nil {
			img = newImage(r, pinned)
		}
		ix.byID[id] = img
		ix.byDigest[r.ManifestDigest] = img
		for _, n := range img.Tags {
			ix.byName[n] = img
		}
		for _, n := range img.Digests {
			ix.byName[n] = img
			ix.byDigest[n[strings.IndexByte(n, '@')+1:]] = img
		}
		ix.sorted = append(ix.sorted, img)
	}
	slices.SortFunc(ix.sorted, func(a, b *Image) int {
		return cmp.Or(b.PulledAt.Compare(a.PulledAt), cmp.Compare(a.ID, b.ID))
	})
	return ix
}

// repinned is the index with images that are pinned as the patterns say.
func (ix *index) repinned(patterns []string) *index {
	out := &index{records: ix.records, byID: make(map[string]*Image, len(ix.byID))}
	for id, img := range ix.byID {
		changed := *img
		changed.Pinned = isPinned(ix.records[id], patterns)
		out.byID[id] = &changed
	}
	return newIndex(out, ix.records, patterns)
}

// reuse returns the image of a record that has not changed since ix was made, or nil.
func (ix *index) reuse(id string, r *record) *Image {
	if ix == nil {
		return nil
	}
	img := ix.byID[id]
	if img == nil || !img.PulledAt.Equal(r.PulledAt) || !slices.Equal(img.Tags, r.Tags) || !slices.Equal(img.Digests, r.Digests) {
		return nil
	}
	return img
}

// get is [Store.Get].
func (ix *index) get(ref string) (*Image, error) {
	if hex := strings.TrimPrefix(ref, "sha256:"); isHex(hex) && len(hex) == 64 {
		if img := ix.byID["sha256:"+hex]; img != nil {
			return img, nil
		}
		return nil, fmt.Errorf("%w: no image has the ID %s", ErrNotFound, ref)
	}
	r, err := registry.Parse(ref)
	if err == nil {
		if img := ix.find(r); img != nil {
			return img, nil
		}
	}
	if img, perr := ix.byPrefix(ref); img != nil || perr != nil {
		return img, perr
	}
	if err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %s", ErrNotFound, r)
}

// layer returns the description of a layer from the record of any image that has it.
func (ix *index) layer(chain string) (layerRecord, bool) {
	for _, r := range ix.records {
		for _, l := range r.Layers {
			if l.ChainID == chain {
				return l, true
			}
		}
	}
	return layerRecord{}, false
}

func (ix *index) find(r registry.Reference) *Image {
	if r.Digest == "" {
		return ix.byName[r.TagName()]
	}
	return ix.byName[r.DigestName(r.Digest)]
}

// byPrefix returns the only image whose ID begins with ref, nil if there is none. It fails
// if there are several.
func (ix *index) byPrefix(ref string) (*Image, error) {
	hex := strings.TrimPrefix(ref, "sha256:")
	if !isHex(hex) || len(hex) < 2 {
		return nil, nil
	}
	var found *Image
	for id, img := range ix.byID {
		if !strings.HasPrefix(id, "sha256:"+hex) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%w: more than one image ID starts with %s; give more digits", ErrInvalidReference, hex)
		}
		found = img
	}
	return found, nil
}

// isPinned reports whether one of the image's names matches one of the patterns.
func isPinned(r *record, patterns []string) bool {
	for _, p := range patterns {
		if !strings.ContainsAny(p, "*?[") {
			if ref, err := registry.Parse(p); err == nil {
				p = ref.String()
			}
		}
		pat, err := registry.ParsePattern(p)
		if err == nil && slices.ContainsFunc(slices.Concat(r.Tags, r.Digests), pat.Matches) {
			return true
		}
	}
	return false
}
