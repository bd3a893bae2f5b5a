package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/image/registry"
	"berth/oci/tracing"
)

// Auth are the credentials of one pull; the fields are those of the CRI's AuthConfig. They
// are sent only to the host in ServerAddress or, if that is empty, to the image's registry.
type Auth = registry.Credentials

// PullRequest is a request to pull an image.
type PullRequest struct {
	Reference string
	Auth      *Auth // nil: the credentials in hosts.toml, or none
	// Progress, if not nil, is called for each step, by one goroutine at a time. It must
	// not block.
	Progress func(Progress)
}

// The stages of a pull, in [Progress].
const (
	StageResolve = "resolve" // asking the registry for the digest of the name
	StageLayer   = "layer"   // fetching, verifying and unpacking one layer
	StageCommit  = "commit"  // flushing to disk, writing the record
	StageDone    = "done"
)

// Progress is a step of a pull.
type Progress struct {
	Reference string
	Stage     string
	Layer     string // blob digest, in StageLayer
	Index     int    // of the layer, from 0
	Layers    int    // of the image
	Done      int64  // bytes of the blob so far; Total if the store had the layer already
	Total     int64  // bytes of the blob
}

// puller pulls images from registries.
type puller struct {
	*importer
	examiner
	client *registry.Client
	trust  *trust
}

// pull pulls one image. tell is called for each step.
func (p *puller) pull(ctx context.Context, ref registry.Reference, auth *Auth, tell func(Progress)) (*Image, error) {
	tell(Progress{Reference: ref.String(), Stage: StageResolve})
	repo, err := p.client.Repository(ref, auth)
	if err != nil {
		return nil, err
	}
	step, end := tracing.Begin(ctx, "resolve name", "registry", ref.Host)
	root, img, err := p.resolve(step, repo, ref)
	end(err)
	if err != nil || img != nil {
		return img, err
	}
	if img, err := p.nameKnown(ctx, repo, ref, root.Digest); img != nil || err != nil {
		return img, err
	}
	step, end = tracing.Begin(ctx, "manifest and config", "digest", root.Digest.String())
	f, err := p.examine(step, repo, root)
	end(err)
	if err != nil {
		return nil, err
	}
	step, end = tracing.Begin(ctx, "trust policy")
	err = p.trust.policy().allow(step, ref, repo, f.root, f.manifest.Digest)
	end(err)
	if err != nil {
		return nil, err
	}
	job := &ingest{importer: p.importer, src: repo, found: f, name: ref.String(), tag: pullTag(ref), digestName: ref.DigestName(f.root), tell: tell}
	return job.run(ctx)
}

// pullTag returns the tag that the image gets, or "". A name with tag and digest is pulled
// by the digest; the registry's tag may be another image by now, so the image gets no tag.
func pullTag(ref registry.Reference) string {
	if ref.Digest != "" {
		return ""
	}
	return ref.TagName()
}

// resolve finds the manifest or index that the name refers to in its registry. If the store
// has an image of that name, asking for the digest (HEAD) may suffice; the answer also
// proves that the credentials give access. A digest without its manifest is accepted only
// if the image was pulled from this repository before: otherwise a registry could give its
// own name to an image that was pulled from another registry.
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

// gave reports whether the image with this digest was pulled from the repository before.
func (p *puller) gave(ref registry.Reference, d digest.Digest) bool {
	return d != "" && p.cat.view().byName[ref.DigestName(d)] != nil
}

// nameKnown adds the name to the image whose manifest or index has the digest, if the trust
// policy allows the name for it. It returns nil if the store has no such image.
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

// pullFailure wraps the error of a pull: it adds the image's name and the sentinel of the
// error's kind.
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

// firstSentinel returns the sentinel that the text of a pull's error must begin with, because
// the kubelet looks for it there, or nil.
func firstSentinel(err error) error {
	for _, k := range []error{ErrRegistryUnavailable, ErrSignature} {
		if errors.Is(err, k) {
			return k
		}
	}
	return nil
}

// kindFirst is an error whose text begins with its kind, where the kubelet looks for it.
type kindFirst struct{ kind, err error }

func (k *kindFirst) Error() string {
	return k.kind.Error() + ": " + strings.Replace(k.err.Error(), k.kind.Error()+": ", "", 1)
}

func (k *kindFirst) Unwrap() error { return k.err }

// now returns the present time in UTC, rounded down to microseconds as in the records.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
