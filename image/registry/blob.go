package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
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

// External opens a blob that lies outside the registry (a foreign layer), at the
// first of urls that works. No credentials go there.
func (r *Repository) External(ctx context.Context, urls []string) (io.ReadCloser, error) {
	var tried []string
	for _, u := range urls {
		body, err := r.client.external(ctx, u)
		if err == nil {
			return body, nil
		}
		tried = append(tried, fmt.Sprintf("%.200s: %v", u, err))
	}
	return nil, fmt.Errorf("%w: fetch a foreign layer: tried %s", ErrUnavailable, strings.Join(tried, "; "))
}

func (c *Client) external(ctx context.Context, u string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	if req.URL.Scheme != "https" && !isLoopback(req.URL.Host) {
		return nil, fmt.Errorf("a foreign layer must be at an https URL")
	}
	h := upstreamOf(req.URL.Host)
	h.base.Scheme = req.URL.Scheme
	rt, err := c.transport(h)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: rt}).Do(req)
	if err != nil {
		return nil, shorten(err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close() // not wanted
		return nil, newStatusError(resp, c.opts.Timeout)
	}
	return watch(resp.Body, c.opts.Timeout), nil
}

// blob reads a blob over as many connections as it takes.
type blob struct {
	repo   *Repository
	ctx    context.Context
	digest digest.Digest
	size   int64
	off    int64
	body   io.ReadCloser
	fails  int // since the last byte

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
		body := watch(resp.Body, b.repo.client.opts.Timeout)
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
	for {
		if err := b.ready(); err != nil {
			return 0, err
		}
		before := time.Now()
		n, err := b.body.Read(p)
		b.waited += time.Since(before)
		b.off += int64(n)
		if n > 0 {
			b.fails = 0
		}
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
	if b.fails >= b.repo.client.opts.Attempts {
		return fmt.Errorf("%w: fetch %s: broke off at byte %d of %d, %d times in a row: %w",
			ErrUnavailable, b.repo.ref.DigestName(b.digest), b.off, b.size, b.fails, err)
	}
	return b.repo.client.pause(b.ctx, b.fails, err)
}

func (b *blob) Close() error {
	if b.body == nil {
		return nil
	}
	return b.body.Close()
}

// errStalled says that a host sent nothing for too long.
var errStalled = errors.New("no data")

// watched fails a read of a body that does not come back in time.
type watched struct {
	body    io.ReadCloser
	timeout time.Duration
	timer   *time.Timer
}

// watch closes the body when one read takes longer than the timeout. The time
// between reads does not count: it is the reader's own.
func watch(body io.ReadCloser, timeout time.Duration) *watched {
	w := &watched{body: body, timeout: timeout}
	w.timer = time.AfterFunc(timeout, func() { body.Close() }) // its effect is the point
	w.timer.Stop()
	return w
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.timeout)
	n, err := w.body.Read(p)
	if !w.timer.Stop() && err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w for %v", errStalled, w.timeout)
	}
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	return w.body.Close()
}
