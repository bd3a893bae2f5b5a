package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/opencontainers/go-digest"
)

// tries is one request of a repository, which is sent to one host after the other until one
// of them answers as wanted:
//
//	tries := r.tries(ctx, what, want)
//	for tries.next() {
//		resp, err := tries.host.do(...)
//		if err == nil {
//			return resp, nil
//		}
//		tries.failed(err)
//	}
//	return nil, tries.err
type tries struct {
	host *endpoint // the host to ask; valid after next returned true
	err  error     // the errors of all hosts; valid after next returned false

	repo    *Repository
	ctx     context.Context
	what    string  // describes the request in errors
	able    []*host // the hosts left, the present one first
	count   int     // how often the present host was asked
	limit   int     // how often it may be asked
	lastErr error   // the last error of the present host
	tried   []attempt
}

// tries prepares a request; what describes it in errors. want is the digest of the request,
// "" if it is for a tag.
func (r *Repository) tries(ctx context.Context, what string, want digest.Digest) *tries {
	return &tries{repo: r, ctx: ctx, what: what, able: r.candidates(want)}
}

// failed records the error of the present host. It must be called before each call of next
// but the first.
func (t *tries) failed(err error) { t.lastErr = err }

// next chooses the host to ask: the present one again, after a pause, if that may help,
// otherwise the next one. It returns false when no host is left or the context has ended.
func (t *tries) next() bool {
	for len(t.able) > 0 {
		if t.count > 0 && !t.again() {
			if t.ctx.Err() != nil {
				t.err = fmt.Errorf("%s: %w", t.what, context.Cause(t.ctx))
				return false
			}
			t.tried = append(t.tried, attempt{t.able[0], t.lastErr})
			t.able, t.count = t.able[1:], 0
			continue
		}
		if t.count == 0 {
			// The last host is the registry itself. It is asked more often than mirrors.
			if t.limit = t.repo.client.opts.Attempts; len(t.able) > 1 {
				t.limit = min(t.limit, 2)
			}
		}
		t.count++
		var err error
		if t.host, err = t.repo.endpoint(t.ctx, t.able[0]); err == nil {
			return true
		}
		t.failed(err)
	}
	t.err = failure(t.what, t.tried)
	return false
}

// again reports whether the present host should be asked again, and waits for the pause
// before that. A host that sends wrong content is asked at most twice.
func (t *tries) again() bool {
	if errors.Is(t.lastErr, errWrong) {
		t.limit = min(t.limit, 2)
	}
	if t.count >= t.limit || !worthRetry(t.lastErr) || t.ctx.Err() != nil {
		return false
	}
	if err := t.repo.client.pause(t.ctx, t.count, t.lastErr); err != nil {
		t.lastErr = err
		return false
	}
	return true
}

// pause waits before attempt n+1: for the time of the host's Retry-After header, or else
// for a time that doubles with each attempt.
func (c *Client) pause(ctx context.Context, n int, cause error) error {
	d := c.opts.Backoff << min(n-1, 5)
	d = min(d/2+rand.N(d/2+1), 30*c.opts.Backoff)
	var se *statusError
	if errors.As(cause, &se) && se.hasRetry {
		if d = se.retryAfter; d > c.opts.MaxRetryAfter {
			return fmt.Errorf("%w; it asks to come back in %v, which is too long", cause, d.Round(time.Second))
		}
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return cause
	case <-timer.C:
		return nil
	}
}

func (r *Repository) endpoint(ctx context.Context, h *host) (*endpoint, error) {
	r.mu.Lock()
	e, ok := r.endpoints[h]
	r.mu.Unlock()
	if ok {
		return e, nil
	}
	e, err := r.client.newEndpoint(ctx, h, r.ref, r.given)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endpoints[h] = e
	return e, nil
}
