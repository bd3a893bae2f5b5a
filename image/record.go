package image

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/image/registry"
	"berth/oci/atomicfile"
)

const (
	recordVersion = 1
	badSuffix     = ".bad" // of records that can't be used
)

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

func (s *Store) recordPath(id string) string {
	return filepath.Join(s.images, strings.TrimPrefix(id, "sha256:")+".json")
}

// slim gives the record as it is kept in memory: without the documents, which may have
// megabytes.
func (r *record) slim() *record {
	c := *r
	c.Manifest, c.Config = nil, nil
	return &c
}

// withDocuments gives a record of the store with its documents, from its file.
func (s *Store) withDocuments(r *record) (*record, error) {
	if r.Manifest != nil {
		return r, nil
	}
	var stored record
	if err := atomicfile.Read(s.recordPath(r.ID), &stored); err != nil {
		return nil, err
	}
	c := *r
	c.Manifest, c.Config = stored.Manifest, stored.Config
	return &c, nil
}

func (s *Store) writeRecord(r *record) error {
	full, err := s.withDocuments(r)
	if err != nil {
		return classify(err)
	}
	return classify(atomicfile.Write(s.recordPath(r.ID), full))
}

// eraseRecord makes the image vanish for good.
func (s *Store) eraseRecord(id string) error {
	if err := os.Remove(s.recordPath(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return classify(err)
	}
	return classify(syncPath(s.images))
}

// loadRecords reads all images. What can't be read or lacks a layer is left out: it
// is moved aside, so that the image is pulled again.
func (s *Store) loadRecords() error {
	entries, err := os.ReadDir(s.images)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		path := filepath.Join(s.images, name)
		switch {
		case strings.HasPrefix(name, atomicfile.TempPrefix):
			os.Remove(path) // on a read-only disk it stays
		case strings.HasSuffix(name, ".json"):
			r, err := s.readRecord(path)
			if err != nil { // put out of the way, for Check to report
				os.Rename(path, path+badSuffix) //nolint:errcheck // on a read-only disk it stays
				continue
			}
			s.adopt(r)
		}
	}
	s.settleTags()
	return nil
}

func (s *Store) readRecord(path string) (*record, error) {
	var r record
	if err := atomicfile.Read(path, &r); err != nil {
		return nil, err
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("its version is %d, this berth knows %d", r.Version, recordVersion)
	}
	if s.recordPath(r.ID) != path {
		return nil, fmt.Errorf("it is of the image %q", r.ID)
	}
	if err := r.parse(); err != nil {
		return nil, err
	}
	r.Tags, r.Digests = canonical(r.Tags), canonical(r.Digests)
	for _, l := range r.Layers {
		if _, ok := s.layers[l.ChainID]; !ok {
			return nil, fmt.Errorf("its layer %s is missing", l.ChainID)
		}
	}
	return r.slim(), nil
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

func (s *Store) adopt(r *record) {
	s.records[r.ID] = r
	s.seq = max(s.seq, r.Seq)
	for _, l := range r.Layers {
		info := s.layers[l.ChainID]
		info.refs++
		if l.Bytes > 0 {
			info.bytes, info.inodes, info.known = l.Bytes, l.Inodes, true
		}
	}
}

// settleTags leaves each tag with the image that got it last: a crash between two
// writes may have left it with two. That is written down, or the tag would be back
// with the older one as soon as the newer is removed.
func (s *Store) settleTags() {
	owner, mended := map[string]*record{}, map[string]bool{}
	bySeq := slices.SortedFunc(maps.Values(s.records), func(a, b *record) int { return cmp.Compare(a.Seq, b.Seq) })
	for _, r := range bySeq {
		for _, t := range r.Tags {
			if prev := owner[t]; prev != nil {
				s.records[prev.ID] = s.records[prev.ID].without(t)
				mended[prev.ID] = true
			}
			owner[t] = r
		}
	}
	for id := range mended {
		s.writeRecord(s.records[id]) //nolint:errcheck // on a read-only disk the next start does it
	}
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

func syncPath(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
