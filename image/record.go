package image

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/image/registry"
)

const recordVersion = 1

// record is an image as stored in ROOT/images. It is immutable once in the store;
// a change makes a new one.
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
	Seq            uint64        `json:"seq"` // of two records with one tag, the higher has it

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

// with gives a copy that also has the names.
func (r *record) with(tag, digestName string) *record {
	c := *r
	c.Tags, c.Digests = added(r.Tags, tag), added(r.Digests, digestName)
	return &c
}

// without gives a copy that does not have the tag.
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

// slim gives the record as it is kept in memory: without the documents, which may have
// megabytes.
func (r *record) slim() *record {
	c := *r
	c.Manifest, c.Config = nil, nil
	return &c
}

// canonical gives names as [registry.Parse] writes them now: one that is written
// otherwise, by an earlier version, nobody could ask for any more.
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

// parse takes out of the record's documents what is kept of them; an artifact has no
// configuration to speak of.
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
