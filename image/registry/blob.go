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
)

// Blob opens a blob of the given size. A connection that breaks or stalls is
// resumed where it was, on any host; the digest is the caller's to check.
func (r *Repository) Blob(ctx context.Context, d digest.Digest, size int64) (io.ReadCloser, error) {
	b := &blob{repo: r, ctx: ctx, digest: d, size: size}
	if err := b.open(); err != nil {
		return nil, err
	}
	return b, nil
}

// maxURLs is how many places of a foreign layer are tried.
const maxURLs = 8

// External opens a blob that lies outside the registry (a foreign layer), at the
// first of urls that works, of which up to eight are tried. No credentials go there,
// and they may lie where a redirect of the registry might lead.
func (r *Repository) External(ctx context.Context, urls []string) (io.ReadCloser, error) {
	last := r.hosts[len(r.hosts)-1]
	h := &host{base: &url.URL{Scheme: "https"}, dial: defaultDialTimeout, redirects: last.redirects}
	own := public
	r.mu.Lock()
	// A mirror's place says nothing: what the manifest names is the registry's doing.
	if e := r.endpoints[last]; e != nil && last.upstream {
		own = e.last.reach()
	}
	r.mu.Unlock()
	var tried []string
	for _, u := range urls[:min(len(urls), maxURLs)] {
		body, err := r.client.external(ctx, h, own, u)
		if err == nil {
			return body, nil
		}
		tried = append(tried, printable(fmt.Sprintf("%.200s: %v", u, err), maxErrorText))
	}
	return nil, fmt.Errorf("%w: fetch a foreign layer: tried %s", ErrUnavailable, strings.Join(tried, "; "))
}

func (c *Client) external(ctx context.Context, h *host, own reach, u string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, shorten(err)
	}
	if req.URL.Scheme != "https" && !isLoopback(req.URL.Host) {
		return nil, fmt.Errorf("a foreign layer must be at an https URL")
	}
	req.Header.Set("User-Agent", c.opts.UserAgent)
	rt := roundTripper(func(req *http.Request) (*http.Response, error) { return c.away(req, h, own) })
	resp, err := (&http.Client{Transport: rt, CheckRedirect: checkRedirect}).Do(req)
	if err != nil {
		return nil, shorten(err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close() // not wanted
		return nil, c.newStatusError(resp, false)
	}
	return c.watch(resp), nil
}

// blob reads a blob over as many connections as it takes.
type blob struct {
	repo   *Repository
	ctx    context.Context
	digest digest.Digest
	size   int64
	off    int64
	body   io.ReadCloser

	fails   int           // since it last came well
	mark    int64         // where it last broke off
	entered time.Time     // the present Read
	spent   time.Duration // in the Reads since mark, reconnecting and pauses too

	canRange bool          // the host offers ranges
	started  int64         // where the present connection began
	waited   time.Duration // what its reads took: the time between them is the reader's
	ranged   bool          // body is a *ranged
	noParts  bool          // they failed once
}

// open asks for what is left of the blob.
func (b *blob) open() error {
	what := "fetch " + b.repo.ref.DigestName(b.digest)
	return b.repo.each(b.ctx, what, false, func(e *endpoint) error {
		var header http.Header
		if b.off > 0 {
			header = http.Header{"Range": {"bytes=" + strconv.FormatInt(b.off, 10) + "-"}}
		}
		resp, err := e.do(b.ctx, http.MethodGet, "blobs/"+b.digest.String(), header) //nolint:bodyclose // watch closes it
		if err != nil {
			return err
		}
		body := b.repo.client.watch(resp)
		if err := skipTo(b.off, resp, body); err != nil {
			return errors.Join(err, body.Close())
		}
		b.body, b.started, b.waited = body, b.off, 0
		b.canRange = resp.StatusCode == http.StatusPartialContent || resp.Header.Get("Accept-Ranges") == "bytes"
		return nil
	})
}

// skipTo brings a fresh response to offset off: it may start there, or, from a
// host that knows no ranges, at the beginning.
func skipTo(off int64, resp *http.Response, body io.Reader) error {
	if off == 0 {
		return nil
	}
	if resp.StatusCode == http.StatusPartialContent {
		start, _, _ := strings.Cut(strings.TrimPrefix(resp.Header.Get("Content-Range"), "bytes "), "-")
		if start != strconv.FormatInt(off, 10) {
			return fmt.Errorf("%w: asked for a range from %d, got %q", errFinal, off, resp.Header.Get("Content-Range"))
		}
		return nil
	}
	_, err := io.CopyN(io.Discard, body, off)
	return err
}

// Read gives the next bytes, reconnecting as needed.
func (b *blob) Read(p []byte) (int, error) {
	b.entered = time.Now()
	defer func() { b.spent += time.Since(b.entered) }()
	for {
		if err := b.ready(); err != nil {
			return 0, err
		}
		before := time.Now()
		n, err := b.body.Read(p)
		b.waited += time.Since(before)
		b.off += int64(n)
		if err == nil || errors.Is(err, io.EOF) && b.off >= b.size {
			return n, err
		}
		b.body.Close() // already failed
		b.body = nil
		if b.ranged && b.ctx.Err() == nil { // one connection may do what parts can't
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

// ready makes sure there is something to read from.
func (b *blob) ready() error {
	if b.body != nil && !b.ranged && b.slow() {
		b.body.Close() // the parts take over
		b.body, b.ranged = newRanged(b), true
	}
	if b.body != nil {
		return nil
	}
	return b.open()
}

// failed decides, after a broken read, whether to go on.
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

// cameWell tells whether more than a trickle came since the last failure: a host that
// sends a little and breaks off, again and again, is not one to go on with.
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
