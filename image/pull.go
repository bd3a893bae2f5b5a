package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
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

// pull is one pull in progress, for all who asked for it.
type pull struct {
	refs   int
	cancel context.CancelCauseFunc
	done   chan struct{}
	img    *Image
	err    error
	listeners
}

// listeners passes progress to everyone who wants it.
type listeners struct {
	mu   sync.Mutex
	list []func(Progress)
}

func (l *listeners) add(f func(Progress)) {
	if f == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, f)
}

func (l *listeners) tell(p Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.list {
		f(p)
	}
}

// Pull makes the image the reference names in its registry now present, and gives
// it. Callers that ask for the same with the same credentials share one pull; it
// goes on until the last of them gave up.
func (s *Store) Pull(ctx context.Context, req PullRequest) (*Image, error) {
	ref, err := registry.Parse(req.Reference)
	if err != nil {
		return nil, err
	}
	if err := s.opts.Trust.allowName(ref); err != nil {
		return nil, err
	}
	p := s.joinPull(ref, req)
	select {
	case <-p.done:
		return p.img, p.err
	case <-ctx.Done():
		s.leavePull(p, context.Cause(ctx))
		return nil, fmt.Errorf("pull %s: %w", ref, context.Cause(ctx))
	}
}

func pullKey(ref registry.Reference, auth *Auth) string {
	key := ref.String()
	if auth != nil {
		sum := sha256.Sum256(fmt.Appendf(nil, "%q", *auth))
		key += " " + string(sum[:])
	}
	return key
}

func (s *Store) joinPull(ref registry.Reference, req PullRequest) *pull {
	key := pullKey(ref, req.Auth)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pulls[key]; p != nil {
		p.refs++
		p.add(req.Progress)
		return p
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	p := &pull{refs: 1, cancel: cancel, done: make(chan struct{})}
	p.add(req.Progress)
	s.pulls[key] = p
	s.flights.Add(1)
	go func() {
		defer s.flights.Done()
		p.img, p.err = s.pull(ctx, ref, req.Auth, p.tell)
		if p.err != nil {
			p.err = fmt.Errorf("pull %s: %w", ref, classify(p.err))
			if kind := firstSentinel(p.err); kind != nil {
				p.err = &kindFirst{kind, p.err}
			}
		}
		s.mu.Lock()
		if s.pulls[key] == p {
			delete(s.pulls, key)
		}
		s.mu.Unlock()
		close(p.done)
		cancel(nil)
	}()
	return p
}

// leavePull ends the pull when nobody is left who wants it. A later caller of the
// same name starts a new one.
func (s *Store) leavePull(p *pull, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.refs--; p.refs > 0 {
		return
	}
	for key, q := range s.pulls {
		if q == p {
			delete(s.pulls, key)
		}
	}
	p.cancel(cause)
}

// pull does the work of one pull.
func (s *Store) pull(ctx context.Context, ref registry.Reference, auth *Auth, tell func(Progress)) (*Image, error) {
	tell(Progress{Reference: ref.String(), Stage: StageResolve})
	repo, err := s.client.Repository(ref, auth)
	if err != nil {
		return nil, err
	}
	src := registrySource{repo}
	root, img, err := s.resolve(ctx, repo, ref)
	if err != nil || img != nil {
		return img, err
	}
	if img, err := s.known(ctx, repo, ref, root.Digest); img != nil || err != nil {
		return img, err
	}
	f, err := s.examine(ctx, src, root)
	if err != nil {
		return nil, err
	}
	if err := s.opts.Trust.allow(ctx, ref, repo, f.root, f.manifest.Digest); err != nil {
		return nil, err
	}
	job := &ingest{store: s, src: src, found: f, name: ref.String(), tag: pullTag(ref), digestName: ref.DigestName(f.root), tell: tell}
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
func (s *Store) resolve(ctx context.Context, repo *registry.Repository, ref registry.Reference) (registry.Manifest, *Image, error) {
	if s.index.Load().find(ref) != nil {
		m, err := repo.Resolve(ctx)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return m, nil, err
		}
		if err == nil && s.gave(ref, m.Digest) {
			img, err := s.known(ctx, repo, ref, m.Digest)
			if img != nil || err != nil {
				return m, img, err
			}
		}
	}
	m, err := repo.Root(ctx)
	return m, nil, err
}

// gave tells whether the repository has given the image with the digest before.
func (s *Store) gave(ref registry.Reference, d digest.Digest) bool {
	return d != "" && s.index.Load().byName[ref.DigestName(d)] != nil
}

// known gives the image whose manifest or index has the digest, if it is here,
// after adding the name to it.
func (s *Store) known(ctx context.Context, repo *registry.Repository, ref registry.Reference, d digest.Digest) (*Image, error) {
	img := s.index.Load().byDigest[d.String()]
	if img == nil {
		return nil, nil
	}
	s.mu.Lock()
	digests := []digest.Digest{d}
	if r := s.records[img.ID]; r != nil {
		digests = append(digests, digest.Digest(r.ManifestDigest))
	}
	s.mu.Unlock()
	if err := s.opts.Trust.allow(ctx, ref, repo, digests...); err != nil {
		return nil, err
	}
	return s.addNames(img.ID, pullTag(ref), ref.DigestName(d))
}

// addNames gives an image more names, taking the tag from whichever had it. The
// image is nil when it was removed meanwhile.
func (s *Store) addNames(id, tag, digestName string) (*Image, error) {
	if img := s.index.Load().byID[id]; img != nil && hasNames(img, tag, digestName) {
		return img, nil
	}
	s.commit.Lock()
	defer s.commit.Unlock()
	s.mu.Lock()
	r := s.records[id]
	s.mu.Unlock()
	if r == nil {
		return nil, nil
	}
	return s.putRecord(r.with(tag, digestName), tag)
}

func hasNames(img *Image, tag, digestName string) bool {
	has := func(list []string, n string) bool {
		for _, e := range list {
			if e == n {
				return true
			}
		}
		return n == ""
	}
	return has(img.Tags, tag) && has(img.Digests, digestName)
}

// putRecord stores the record, durably, then takes its new tag from the image that
// had it, and shows both. The caller holds commit.
func (s *Store) putRecord(r *record, tag string) (*Image, error) {
	s.mu.Lock()
	s.seq++
	r.Seq = s.seq
	var loser *record
	for id, o := range s.records {
		if id != r.ID && tag != "" && contains(o.Tags, tag) {
			loser = o.without(tag)
		}
	}
	s.mu.Unlock()
	if err := s.writeRecord(r); err != nil {
		return nil, err
	}
	var err error
	if loser != nil {
		err = s.writeRecord(loser) // failing to is mended by settleTags
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[r.ID] = r.slim()
	if loser != nil {
		s.records[loser.ID] = loser
	}
	s.publish()
	return s.index.Load().byID[r.ID], err
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
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
