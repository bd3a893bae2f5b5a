package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// acceptManifests is the Accept header with the supported media types of manifests.
var acceptManifests = strings.Join([]string{
	string(types.OCIImageIndex), string(types.OCIManifestSchema1),
	string(types.DockerManifestList), string(types.DockerManifestSchema2),
	"*/*;q=0.1",
}, ", ")

// Repository is one repository of one registry, with all hosts that serve it. It is made for
// one pull.
type Repository struct {
	client *Client
	ref    Reference
	given  *Credentials
	hosts  []*host

	mu        sync.Mutex
	endpoints map[*host]*endpoint
	blobs     map[digest.Digest]*sources
}

// Manifest is a manifest or index as a registry gave it.
type Manifest struct {
	Digest    digest.Digest
	MediaType string
	Raw       []byte // nil after [Repository.Resolve]
}

// Repository prepares a pull of ref: it reads the configuration of ref's registry. given are
// the client's credentials, nil if there are none.
func (c *Client) Repository(ref Reference, given *Credentials) (*Repository, error) {
	hosts, err := loadHosts(c.opts.CertsDirs, ref.Host)
	if err != nil {
		return nil, err
	}
	return &Repository{
		client: c, ref: ref, given: given, hosts: hosts,
		endpoints: map[*host]*endpoint{}, blobs: map[digest.Digest]*sources{},
	}, nil
}

// Registry returns the host in the repository's name. Mirrors of it may serve the content.
func (r *Repository) Registry() string { return r.ref.Host }

// Resolve asks for the digest that the reference has at present, without fetching the
// manifest (HEAD). The digest is "" if the registry does not tell it: some registries answer
// HEAD with an error (400, 403, 405, 500) although they serve the manifest.
func (r *Repository) Resolve(ctx context.Context) (Manifest, error) {
	tries := r.tries(ctx, "resolve "+r.ref.String(), r.ref.Digest)
	for tries.next() {
		resp, err := tries.host.do(ctx, http.MethodHead, "manifests/"+r.ref.wanted(), manifestHeader())
		if saysNothing(err) {
			return Manifest{}, nil
		}
		if err != nil {
			tries.failed(err)
			continue
		}
		resp.Body.Close() // HEAD has none
		m := Manifest{Digest: digest.Digest(resp.Header.Get("Docker-Content-Digest")), MediaType: mediaType(resp)}
		if m.Digest.Validate() != nil {
			m.Digest = ""
		}
		return m, nil
	}
	return Manifest{}, tries.err
}

// saysNothing reports whether the error of a HEAD does not mean that a GET would fail as
// well. An unknown image, wrong credentials and too many requests concern both.
func saysNothing(err error) bool {
	var se *statusError
	if !errors.As(err, &se) || errors.Is(err, ErrUnauthorized) {
		return false
	}
	switch se.code {
	case http.StatusNotFound, http.StatusUnauthorized, http.StatusTooManyRequests:
		return false
	}
	return true
}

// Root fetches the manifest or index to which the reference refers.
func (r *Repository) Root(ctx context.Context) (Manifest, error) {
	return r.manifest(ctx, r.ref.wanted(), r.ref.Digest)
}

// Manifest fetches a manifest by its digest.
func (r *Repository) Manifest(ctx context.Context, d digest.Digest) (Manifest, error) {
	return r.manifest(ctx, d.String(), d)
}

// Tag fetches the manifest or index to which another tag of the repository refers.
func (r *Repository) Tag(ctx context.Context, tag string) (Manifest, error) {
	return r.manifest(ctx, tag, "")
}

// Referrers returns the artifacts that refer to a manifest (referrers API of the OCI
// distribution specification 1.1). In a registry without that API the list is the index
// under the tag sha256-HEX.
func (r *Repository) Referrers(ctx context.Context, d digest.Digest) ([]ocispec.Descriptor, error) {
	raw, err := r.document(ctx, "list referrers of "+r.ref.DigestName(d), "referrers/"+d.String(), d, func(resp *http.Response, raw []byte) error {
		if isObject(raw) {
			return nil
		}
		return fmt.Errorf("%w: it sent no list but %s", errWrong, kindOfDocument(resp))
	})
	var idx ocispec.Index
	if errors.Is(err, ErrNotFound) || errors.Is(err, errWrong) || err == nil && Decode(raw, &idx) != nil {
		var m Manifest
		m, err = r.Tag(ctx, strings.Replace(d.String(), ":", "-", 1))
		raw = m.Raw
	}
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := Decode(raw, &idx); err != nil {
		return nil, fmt.Errorf("list referrers of %s: %w", r.ref.DigestName(d), err)
	}
	return idx.Manifests, nil
}

func (r *Repository) manifest(ctx context.Context, name string, want digest.Digest) (m Manifest, err error) {
	what := "fetch manifest " + r.ref.Name() + ":" + name
	if want != "" {
		what = "fetch manifest " + r.ref.DigestName(want)
	}
	m.Raw, err = r.document(ctx, what, "manifests/"+name, want, func(resp *http.Response, raw []byte) error {
		m.MediaType, m.Digest = mediaType(resp), want
		if want == "" {
			if !isManifest(raw) {
				return fmt.Errorf("%w: it sent no manifest but %s", errWrong, kindOfDocument(resp))
			}
			m.Digest = digest.FromBytes(raw)
		} else if got := want.Algorithm().FromBytes(raw); got != want {
			return fmt.Errorf("%w: the manifest it sent has the digest %s", errWrong, got)
		}
		return nil
	})
	return m, err
}

// Document fetches a small blob, such as an image configuration, and verifies it.
func (r *Repository) Document(ctx context.Context, d digest.Digest) ([]byte, error) {
	return r.document(ctx, "fetch "+r.ref.DigestName(d), "blobs/"+d.String(), d, func(_ *http.Response, raw []byte) error {
		if got := d.Algorithm().FromBytes(raw); got != d {
			return fmt.Errorf("%w: the blob it sent has the digest %s", errWrong, got)
		}
		return nil
	})
}

// document fetches a small resource from the first host whose answer check accepts. what
// describes it in errors. want is the digest of the request, "" if it is for a tag.
func (r *Repository) document(ctx context.Context, what, resource string, want digest.Digest, check func(*http.Response, []byte) error) ([]byte, error) {
	var header http.Header
	if strings.HasPrefix(resource, "manifests/") {
		header = manifestHeader()
	}
	tries := r.tries(ctx, what, want)
	for tries.next() {
		resp, err := tries.host.do(ctx, http.MethodGet, resource, header) //nolint:bodyclose // readDocument closes it
		var raw []byte
		if err == nil {
			raw, err = r.client.readDocument(resp)
		}
		if err == nil {
			err = check(resp, raw)
		}
		if err == nil {
			return raw, nil
		}
		tries.failed(err)
	}
	return nil, tries.err
}

func manifestHeader() http.Header { return http.Header{"Accept": {acceptManifests}} }

// url returns the URL of a resource of the repository.
func (e *endpoint) url(resource string) *url.URL {
	u := *e.host.base
	u.Path = e.host.api + "/" + e.repo + "/" + resource
	if e.host.ns != "" {
		u.RawQuery = url.Values{"ns": {e.host.ns}}.Encode()
	}
	return &u
}

// do sends one request, and repeats it with authorization if the host requires that. It
// returns only responses of success; the caller closes the body.
func (e *endpoint) do(ctx context.Context, method, resource string, header http.Header) (*http.Response, error) {
	ctx = withArrival(ctx)
	var tries authorizing
	for {
		req, err := http.NewRequestWithContext(ctx, method, e.url(resource).String(), nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Accept-Encoding", "identity") // the digest is that of the bytes as sent
		for k, vs := range header {
			req.Header[k] = vs
		}
		used := e.authorization()
		resp, err := e.http.Do(req)
		if err != nil {
			return nil, shorten(err)
		}
		if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent {
			return resp, nil
		}
		err = e.refusal(ctx, resp, used, &tries)
		resp.Body.Close() // it is not read
		if err != nil {
			return nil, err
		}
	}
}

// authorizing counts the repetitions of one request for authorization.
type authorizing struct {
	asked   int  // number of repetitions after a 401
	renewed bool // a token was removed from the cache
}

// refusal handles an answer without success. It returns nil if the request should be sent
// again with a new authorization, and otherwise the error.
func (e *endpoint) refusal(ctx context.Context, resp *http.Response, used string, tries *authorizing) error {
	ours := e.own(resp.Request.URL)
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusForbidden:
		// Some registries answer 400 or 403 instead of 401 to a token that they no longer
		// accept. Without the token they answer 401 with a challenge.
		if ours && !tries.renewed && tries.asked == 0 && e.dropToken(used) {
			tries.renewed = true
			return nil
		}
	case http.StatusUnauthorized:
		if !ours || tries.asked >= 2 {
			break
		}
		tries.asked++
		value, err := e.authorize(ctx, resp, used)
		if err != nil {
			return err
		}
		e.setAuthorization(value)
		return nil
	}
	return e.client.newStatusError(resp, ours)
}

// shorten removes the method and the full URL that net/http puts before an error.
func shorten(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) && ue.Err != nil {
		return ue.Err
	}
	return err
}
