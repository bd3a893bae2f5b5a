package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Blob opens a blob. If the connection breaks or stalls, the blob is resumed at the same
// position, from any host. The caller has to verify the digest. If it is wrong, the method
// Reject() bool of the result reports whether the blob should be opened again. A foreign
// layer that the registry does not have is opened at its URLs, see [Repository.External].
func (r *Repository) Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	b := &blob{repo: r, ctx: ctx, digest: d.Digest, size: d.Size}
	err := b.open()
	if err == nil {
		return b, nil
	}
	if len(d.URLs) == 0 || !IsForeign(d.MediaType) {
		return nil, err
	}
	return r.External(ctx, d.URLs)
}

// IsForeign reports whether layers of this media type may be stored outside of the registry
// (non-distributable layers of the OCI image specification, foreign layers of docker). The
// method IsDistributable of go-containerregistry's MediaType does not know those with zstd.
func IsForeign(mediaType string) bool {
	return strings.Contains(mediaType, ".foreign.") || strings.Contains(mediaType, ".nondistributable.")
}

// maxURLs is how many URLs of a foreign layer are tried.
const maxURLs = 8

// External opens a blob that is stored outside of the registry (a foreign layer) at the
// first of the URLs that works. At most eight are tried. The requests carry no credentials,
// and only addresses to which the registry could also redirect are connected to.
func (r *Repository) External(ctx context.Context, urls []string) (io.ReadCloser, error) {
	last := r.hosts[len(r.hosts)-1]
	h := &host{base: &url.URL{Scheme: "https"}, dial: defaultDialTimeout, redirects: last.redirects}
	own := public
	r.mu.Lock()
	// The URLs are those of the registry's manifest, so the address of the registry itself
	// counts, and not that of a mirror.
	if e := r.endpoints[last]; e != nil && last.upstream {
		own = e.last.reach()
	}
	r.mu.Unlock()
	var tried []string
	var kind error
	for _, u := range urls[:min(len(urls), maxURLs)] {
		body, err := r.client.external(ctx, h, own, u)
		if err == nil {
			return body, nil
		}
		kind = kindOf(err)
		tried = append(tried, printable(fmt.Sprintf("%.200s: %v", u, err), maxErrorText))
	}
	return nil, fmt.Errorf("%w: fetch a foreign layer: tried %s", kind, strings.Join(tried, "; "))
}

// roundTripper is a function as [http.RoundTripper].
type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements [http.RoundTripper].
func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func (c *Client) external(ctx context.Context, h *host, own reach, u string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, shorten(err)
	}
	if req.URL.Scheme != "https" && !isLoopback(req.URL.Host) {
		return nil, fmt.Errorf("%w: a foreign layer must be at an https URL", errFinal)
	}
	req.Header.Set("User-Agent", c.opts.UserAgent)
	rt := roundTripper(func(req *http.Request) (*http.Response, error) { return c.away(req, h, own) })
	resp, err := (&http.Client{Transport: rt, CheckRedirect: checkRedirect}).Do(req)
	if err != nil {
		return nil, shorten(err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close() // it is not read
		return nil, c.newStatusError(resp, false)
	}
	return c.watch(resp), nil
}

// blob reads a blob, over several connections if they break.
type blob struct {
	repo   *Repository
	ctx    context.Context
	digest digest.Digest
	size   int64
	off    int64
	body   io.ReadCloser
	from   *host // the host that sends body

	fails   int           // failures since the last one after good progress, see cameWell
	mark    int64         // position of the last failure
	entered time.Time     // start of the present Read
	spent   time.Duration // time in Read since mark, with reconnections and pauses

	canRange bool          // the host supports range requests
	started  int64         // position at which the present connection began
	waited   time.Duration // time in the connection's reads; the time between them is the caller's
	ranged   bool          // body is a *ranged
	noParts  bool          // fetching in parts failed once
}

// open requests the rest of the blob.
func (b *blob) open() error {
	tries := b.repo.tries(b.ctx, "fetch "+b.repo.ref.DigestName(b.digest), b.digest)
	for tries.next() {
		resp, err := b.request(tries.host) //nolint:bodyclose // watch closes it
		if err != nil {
			tries.failed(err)
			continue
		}
		body := b.repo.client.watch(resp)
		b.repo.gives(b.digest, tries.host.host)
		if err := b.skip(resp, body); err != nil {
			tries.failed(errors.Join(err, body.Close()))
			continue
		}
		b.body, b.from, b.started, b.waited = body, tries.host.host, b.off, 0
		b.canRange = resp.StatusCode == http.StatusPartialContent || resp.Header.Get("Accept-Ranges") == "bytes"
		return nil
	}
	return tries.err
}

// request asks one host for the rest of the blob, as a range with an end: some caches refuse
// ranges without an end. A host that refuses the range is asked for the whole blob.
func (b *blob) request(e *endpoint) (*http.Response, error) {
	resource := "blobs/" + b.digest.String()
	if b.off > 0 {
		resp, err := e.do(b.ctx, http.MethodGet, resource, rangeHeader(b.off, b.size))
		switch {
		case err == nil && (resp.StatusCode == http.StatusOK || startsAt(resp, b.off)):
			return resp, nil
		case err == nil:
			resp.Body.Close() // it is not read
		case !refusesRange(err):
			return nil, err
		}
	}
	return e.do(b.ctx, http.MethodGet, resource, nil)
}

// rangeHeader returns the header for the bytes from first to end-1.
func rangeHeader(first, end int64) http.Header {
	return http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", first, end-1)}}
}

// startsAt reports whether an answer is a range that starts at first.
func startsAt(resp *http.Response, first int64) bool {
	start, _, _ := strings.Cut(strings.TrimPrefix(resp.Header.Get("Content-Range"), "bytes "), "-")
	return resp.StatusCode == http.StatusPartialContent && start == strconv.FormatInt(first, 10)
}

func refusesRange(err error) bool {
	var se *statusError
	return errors.As(err, &se) && (se.code == http.StatusRequestedRangeNotSatisfiable || se.code == http.StatusBadRequest)
}

// skip reads and drops the bytes of a new answer before the present position, if the answer
// begins with the first byte of the blob.
func (b *blob) skip(resp *http.Response, body io.Reader) error {
	if startsAt(resp, b.off) {
		return nil
	}
	if n := resp.ContentLength; n >= 0 && n != b.size {
		return fmt.Errorf("%w: it sends %d bytes where the blob has %d", errWrong, n, b.size)
	}
	_, err := io.CopyN(io.Discard, body, b.off)
	return err
}

// Reject records that the bytes read have the wrong digest. It reports whether the blob
// should be opened again: from the remaining hosts, or from the last one once more.
func (b *blob) Reject() bool { return b.repo.reject(b.digest) }

// Read reads the next bytes, and reconnects if the connection breaks.
func (b *blob) Read(p []byte) (int, error) {
	b.entered = time.Now()
	defer func() { b.spent += time.Since(b.entered) }()
	for {
		if b.off >= b.size { // all bytes are there, so the end of the connection doesn't matter
			return 0, io.EOF
		}
		if err := b.ready(); err != nil {
			return 0, err
		}
		before := time.Now()
		n, err := b.body.Read(p)
		b.waited += time.Since(before)
		b.off += int64(n)
		switch {
		case b.off >= b.size:
			return n, io.EOF
		case err == nil:
			return n, nil
		case errors.Is(err, io.EOF) && !b.ranged:
			b.repo.endedShort(b.digest, b.from)
		}
		b.body.Close() // already failed
		b.body = nil
		if b.ranged && b.ctx.Err() == nil { // go on with one connection
			b.ranged, b.noParts = false, true
			continue
		}
		if ferr := b.failed(err); ferr != nil {
			return n, ferr
		}
		if n > 0 {
			return n, nil
		}
	}
}

// ready makes sure that there is a connection to read from.
func (b *blob) ready() error {
	if b.body != nil && !b.ranged && b.slow() {
		b.body.Close() // the rest is fetched in parts
		b.body, b.ranged = newRanged(b), true
	}
	if b.body != nil {
		return nil
	}
	return b.open()
}

// failed decides, after a failed read, whether to reconnect. It returns nil to go on.
func (b *blob) failed(err error) error {
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	b.fails++
	if b.cameWell() {
		b.fails = 1
	}
	if b.fails >= b.repo.client.opts.Attempts {
		return fmt.Errorf("%w: fetch %s: broke off at byte %d of %d, %d times in a row: %w",
			ErrUnavailable, b.repo.ref.DigestName(b.digest), b.off, b.size, b.fails, err)
	}
	return b.repo.client.pause(b.ctx, b.fails, err)
}

// cameWell reports whether the blob made good progress since the last failure. Otherwise the
// failure counts, so that a host which sends a few bytes and closes the connection, again
// and again, is given up.
func (b *blob) cameWell() bool {
	opts, now := &b.repo.client.opts, time.Now()
	got, spent := float64(b.off-b.mark), b.spent+now.Sub(b.entered)
	b.mark, b.entered, b.spent = b.off, now, 0
	return got >= float64(opts.minRate)*max(spent, opts.rateWindow).Seconds()
}

func (b *blob) Close() error {
	if b.body == nil {
		return nil
	}
	return b.body.Close()
}
