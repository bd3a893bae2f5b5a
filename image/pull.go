package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/image/registry"
)

// Auth are the credentials of one pull; the fields are those of the CRI's
// AuthConfig. They go to the image's registry, or only to the host ServerAddress
// names, and to no other.
type Auth = registry.Credentials

// PullRequest asks for an image.
type PullRequest struct {
	Reference string
	Auth      *Auth // nil: anonymous, or what hosts.toml says
	// Progress, when not nil, is told what happens, by one goroutine at a time; it
	// must not block.
	Progress func(Progress)
}

// The stages a pull goes through.
const (
	StageResolve = "resolve" // asking the registry what the name stands for
	StageLayer   = "layer"   // fetching, verifying and unpacking one layer
	StageCommit  = "commit"  // flushing to disk, recording
	StageDone    = "done"
)

// Progress is a step of a pull.
type Progress struct {
	Reference string
	Stage     string
	Layer     string // blob digest, in StageLayer
	Index     int    // of the layer, from 0
	Layers    int    // of the image
	Done      int64  // bytes of the blob so far; Total when it was here already
	Total     int64  // bytes of the blob
}

// puller pulls images from registries.
type puller struct {
	*importer
	examiner
	client *registry.Client
	trust  *trust
}

// pull does the work of one pull.
func (p *puller) pull(ctx context.Context, ref registry.Reference, auth *Auth, tell func(Progress)) (*Image, error) {
	tell(Progress{Reference: ref.String(), Stage: StageResolve})
	repo, err := p.client.Repository(ref, auth)
	if err != nil {
		return nil, err
	}
	root, img, err := p.resolve(ctx, repo, ref)
	if err != nil || img != nil {
		return img, err
	}
	if img, err := p.nameKnown(ctx, repo, ref, root.Digest); img != nil || err != nil {
		return img, err
	}
	f, err := p.examine(ctx, repo, root)
	if err != nil {
		return nil, err
	}
	if err := p.trust.policy().allow(ctx, ref, repo, f.root, f.manifest.Digest); err != nil {
		return nil, err
	}
	job := &ingest{importer: p.importer, src: repo, found: f, name: ref.String(), tag: pullTag(ref), digestName: ref.DigestName(f.root), tell: tell}
	return job.run(ctx)
}

// pullTag is the tag the image gets: a name with tag and digest asks for the digest
// and says nothing about what the tag is now.
func pullTag(ref registry.Reference) string {
	if ref.Digest != "" {
		return ""
	}
	return ref.TagName()
}

// resolve asks what the name stands for. When an image of that name is here, asking
// for the digest may do; it also proves that the credentials give access. Only an image
// that this repository gave once is taken on its word: with the digest alone a registry
// could have another's image answer to its name.
func (p *puller) resolve(ctx context.Context, repo *registry.Repository, ref registry.Reference) (registry.Manifest, *Image, error) {
	if p.cat.view().find(ref) != nil {
		m, err := repo.Resolve(ctx)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return m, nil, err
		}
		if err == nil && p.gave(ref, m.Digest) {
			img, err := p.nameKnown(ctx, repo, ref, m.Digest)
			if img != nil || err != nil {
				return m, img, err
			}
		}
	}
	m, err := repo.Root(ctx)
	return m, nil, err
}

// gave tells whether the repository has given the image with the digest before.
func (p *puller) gave(ref registry.Reference, d digest.Digest) bool {
	return d != "" && p.cat.view().byName[ref.DigestName(d)] != nil
}

// nameKnown adds the name to the image whose manifest or index has the digest, if it is
// here and the trust policy lets it have the name. It gives nil when it is not here.
func (p *puller) nameKnown(ctx context.Context, repo *registry.Repository, ref registry.Reference, d digest.Digest) (*Image, error) {
	ix := p.cat.view()
	img := ix.byDigest[d.String()]
	if img == nil {
		return nil, nil
	}
	digests := []digest.Digest{d}
	if r := ix.records[img.ID]; r != nil {
		digests = append(digests, digest.Digest(r.ManifestDigest))
	}
	if err := p.trust.policy().allow(ctx, ref, repo, digests...); err != nil {
		return nil, err
	}
	return p.cat.addNames(img.ID, pullTag(ref), ref.DigestName(d))
}

// pullFailure says which pull failed, and of what kind the failure is.
func pullFailure(ref registry.Reference, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("pull %s: %w", ref, classify(err))
	if kind := firstSentinel(err); kind != nil {
		err = &kindFirst{kind, err}
	}
	return err
}

// firstSentinel is the one the kubelet must find at the start of the text.
func firstSentinel(err error) error {
	for _, k := range []error{ErrRegistryUnavailable, ErrSignature} {
		if errors.Is(err, k) {
			return k
		}
	}
	return nil
}

// kindFirst says its kind first: the kubelet compares the beginning of the text.
type kindFirst struct{ kind, err error }

func (k *kindFirst) Error() string {
	return k.kind.Error() + ": " + strings.Replace(k.err.Error(), k.kind.Error()+": ", "", 1)
}

func (k *kindFirst) Unwrap() error { return k.err }

// now is when something happened, in the resolution JSON keeps.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
