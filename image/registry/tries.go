package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/opencontainers/go-digest"
)

// tries goes through the hosts of a repository until one does what is asked:
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
	host *endpoint // to ask now; valid after next
	err  error     // what all hosts said; valid when next has given false

	repo    *Repository
	ctx     context.Context
	what    string  // for errors
	able    []*host // the present one first
	count   int     // how often the present one was asked
	limit   int     // how often it may be
	lastErr error   // its last failure
	tried   []attempt
}

// tries prepares a request, which what describes. want is the digest asked for, empty
// when a tag is.
func (r *Repository) tries(ctx context.Context, what string, want digest.Digest) *tries {
	return &tries{repo: r, ctx: ctx, what: what, able: r.candidates(want)}
}

// failed notes why the host did not do what was asked. It must be called before next,
// unless that was the first call.
func (t *tries) failed(err error) { t.lastErr = err }

// next chooses the host to ask now: the same one again, after a pause, when that may
// help, else the next one. It gives false when there is none left or the context ended.
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
			// The last host is the registry itself, which is asked more often than mirrors.
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

// again tells whether the present host should be asked once more, and waits before that.
// One that sends wrong content is asked twice at most.
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

// pause waits before attempt n+1: as long as the host says, else ever longer.
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
