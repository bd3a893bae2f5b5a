package image

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/image/registry"
)

const recordVersion = 1

// record is the JSON form of an image in ROOT/images. A record of the catalogue is
// immutable: a change makes a new record.
type record struct {
	Version        int           `json:"version"`
	ID             string        `json:"id"`
	Artifact       bool          `json:"artifact,omitempty"`
	MediaType      string        `json:"media_type"`
	ManifestDigest string        `json:"manifest_digest"`
	Manifest       []byte        `json:"manifest"` // nil in memory, like Config; see slim
	Config         []byte        `json:"config"`
	Tags           []string      `json:"tags"`    // full names
	Digests        []string      `json:"digests"` // full names
	Layers         []layerRecord `json:"layers"`  // lowest first
	PulledAt       time.Time     `json:"pulled_at"`
	Seq            uint64        `json:"seq"` // if two records have the same tag, the higher one keeps it

	served    served
	documents int // bytes of Manifest and Config
}

type layerRecord struct {
	ChainID   string `json:"chain_id"`
	DiffID    string `json:"diff_id"`
	Digest    string `json:"digest"` // of the blob
	MediaType string `json:"media_type"`
	BlobSize  int64  `json:"blob_size"`
	TarSize   int64  `json:"tar_size"`
	Bytes     uint64 `json:"bytes"` // on disk
	Inodes    uint64 `json:"inodes"`
}

func (r *record) chains() []string {
	out := make([]string, len(r.Layers))
	for i, l := range r.Layers {
		out[i] = l.ChainID
	}
	return out
}

// with returns a copy of the record with the names added; either may be empty.
func (r *record) with(tag, digestName string) *record {
	c := *r
	c.Tags, c.Digests = added(r.Tags, tag), added(r.Digests, digestName)
	return &c
}

// without returns a copy of the record without the tag.
func (r *record) without(tag string) *record {
	c := *r
	c.Tags = slices.DeleteFunc(slices.Clone(r.Tags), func(t string) bool { return t == tag })
	return &c
}

func added(list []string, s string) []string {
	if s == "" || slices.Contains(list, s) {
		return list
	}
	return append(slices.Clone(list), s)
}

// slim returns a copy of the record without manifest and configuration, which may have
// megabytes. This copy is kept in memory.
func (r *record) slim() *record {
	c := *r
	c.Manifest, c.Config = nil, nil
	return &c
}

// canonical brings names into the form that [registry.Parse] gives them. An earlier version
// may have stored another form, by which the image could not be found any more.
func canonical(names []string) []string {
	var out []string
	for _, n := range names {
		if ref, err := registry.Parse(n); err == nil {
			n = ref.String()
		}
		out = added(out, n)
	}
	return out
}

// parse sets the fields that are derived from manifest and configuration. The configuration
// of an artifact has no defined content and is not read.
func (r *record) parse() error {
	var cfg imageConfig
	var err error
	if !r.Artifact {
		if got := digest.FromBytes(r.Config); got.String() != r.ID {
			return corrupt("the configuration has the digest %s, not %s", got, r.ID)
		}
		if cfg, err = parseConfig(r.Config); err != nil {
			return err
		}
	}
	var m ocispec.Manifest
	if err := registry.Decode(r.Manifest, &m); err != nil {
		return corrupt("the manifest: %v", err)
	}
	r.documents = len(r.Manifest) + len(r.Config)
	r.served, err = serve(cfg, m)
	return err
}
