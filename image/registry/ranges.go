package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/opencontainers/go-digest"
)

// If a blob is slow on one connection, the rest of it is fetched in parts, several at once.
// That is faster with a distant registry, and with one that limits the rate of each
// connection. With a fast registry it would only cost requests and copies (1.25 GB/s instead
// of 1.73 on the loopback), so the rate of the first bytes decides.
const (
	partSize  = 2 << 20  // bytes of a part, which is kept in memory until the reader gets to it
	probeSize = 4 << 20  // bytes that are read on one connection before the decision
	minRanged = 16 << 20 // bytes of a blob below which parts are not used
	slowRate  = 64 << 20 // bytes per second below which parts are used
	maxAhead  = 8        // parts of one blob that are fetched at once
)

// slow reports whether the rest of the blob should be fetched in parts, judging by the rate
// so far.
func (b *blob) slow() bool {
	c := b.repo.client
	if !b.canRange || b.noParts || b.off < probeSize || b.off-b.started > 2*probeSize || b.size-b.off < minRanged-probeSize || cap(c.parts) == 0 {
		return false
	}
	return float64(b.off-b.started) < float64(c.opts.slowRate)*b.waited.Seconds()
}

// part is a part of a blob that is being fetched.
type part struct {
	off   int64
	buf   []byte
	done  chan error
	token bool // it is counted in Client.parts
}

// ranged reads the rest of a blob, from position off on, in parts.
type ranged struct {
	repo   *Repository
	ctx    context.Context
	cancel context.CancelFunc
	digest digest.Digest
	size   int64
	next   int64 // position of the first byte that was not yet requested
	queue  []*part
	cur    *part
	rest   []byte
	wg     sync.WaitGroup
}

func newRanged(b *blob) *ranged {
	r := &ranged{repo: b.repo, digest: b.digest, size: b.size, next: b.off}
	r.ctx, r.cancel = context.WithCancel(b.ctx)
	return r
}

// Read reads the parts in their order.
func (r *ranged) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		r.release(r.cur)
		r.cur = nil
		r.fill()
		if len(r.queue) == 0 {
			return 0, io.EOF
		}
		r.cur, r.queue = r.queue[0], r.queue[1:]
		if err := <-r.cur.done; err != nil {
			return 0, err
		}
		r.rest = r.cur.buf
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// fill starts to fetch parts: at least one, and more while [maxAhead] and Options.Ranges
// allow.
func (r *ranged) fill() {
	for r.next < r.size && len(r.queue) < maxAhead {
		p := &part{off: r.next, done: make(chan error, 1)}
		if len(r.queue) > 0 {
			select {
			case r.repo.client.parts <- struct{}{}:
				p.token = true
			default:
				return
			}
		}
		p.buf = make([]byte, min(partSize, r.size-r.next))
		r.next += int64(len(p.buf))
		r.queue = append(r.queue, p)
		r.wg.Add(1)
		go func() {
			defer r.wg.Done()
			p.done <- r.repo.fetchPart(r.ctx, r.digest, p)
		}()
	}
}

func (r *ranged) release(p *part) {
	if p != nil && p.token {
		p.token = false
		<-r.repo.client.parts
	}
}

// Close cancels all requests and waits until they have ended.
func (r *ranged) Close() error {
	r.cancel()
	r.wg.Wait()
	r.release(r.cur)
	for _, p := range r.queue {
		r.release(p)
	}
	r.cur, r.queue = nil, nil
	return nil
}

// fetchPart fills the buffer of a part. When a connection breaks, it goes on with the next
// byte.
func (r *Repository) fetchPart(ctx context.Context, d digest.Digest, p *part) error {
	have := 0
	tries := r.tries(ctx, fmt.Sprintf("fetch %s from byte %d", r.ref.DigestName(d), p.off), d)
	for tries.next() {
		n, err := r.readRange(ctx, tries.host, d, p.off+int64(have), p.buf[have:])
		if have += n; err == nil {
			return nil
		}
		tries.failed(err)
	}
	return tries.err
}

// readRange fills buf with the bytes of the blob from position first on, and returns how
// many bytes it read.
func (r *Repository) readRange(ctx context.Context, e *endpoint, d digest.Digest, first int64, buf []byte) (int, error) {
	resp, err := e.do(ctx, http.MethodGet, "blobs/"+d.String(), rangeHeader(first, first+int64(len(buf)))) //nolint:bodyclose // watch closes it
	if err != nil {
		return 0, err
	}
	body := r.client.watch(resp)
	defer body.Close() //nolint:errcheck // only read
	if !startsAt(resp, first) {
		return 0, fmt.Errorf("%w: the host offers ranges and does not give them", errFinal)
	}
	r.gives(d, e.host)
	n, err := io.ReadFull(body, buf)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
