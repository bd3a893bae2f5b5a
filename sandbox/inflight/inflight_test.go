package inflight

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestAttackAbandonedPull: a client asks for an image that never comes and goes away.
// Within the grace a retry joins the one pull; without a client it is cancelled.
func TestAttackAbandonedPull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, pull := New(), Call{Name: "pull", Grace: 30 * time.Second}
		var began atomic.Int32
		cancelled := make(chan time.Time, 1)
		hang := func(ctx context.Context) (string, error) {
			began.Add(1)
			<-ctx.Done()
			cancelled <- time.Now()
			time.Sleep(time.Second) // to undo what it had begun
			return "", context.Cause(ctx)
		}
		giveUp := func(after time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			if _, err := f.Do(ctx, pull, hang); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the client that gave up hears %v", err)
			}
		}
		giveUp(time.Second)
		time.Sleep(pull.Grace - time.Second)
		giveUp(5 * time.Minute) // the retry; it has as long as it likes
		left := time.Now()
		if n := began.Load(); n != 1 {
			t.Errorf("the retry began pull %d", n)
		}
		if at := <-cancelled; at.Sub(left) != pull.Grace {
			t.Errorf("cancelled %v after the last client left", at.Sub(left))
		}
		again := func(context.Context) (string, error) { return "image", nil }
		if id, err := f.Do(t.Context(), pull, again); id != "image" || err != nil {
			t.Errorf("a client that came while it was cancelled got %q, %v", id, err)
		}
		if err := f.Drain(t.Context()); err != nil || len(f.Names()) != 0 {
			t.Errorf("left in flight: %v, %v", f.Names(), err)
		}
	})
}

// TestDrainWaitsForWhatItCutShort: a call that was cancelled still undoes what it
// had begun, with parts of the daemon that are closed after drain.
func TestDrainWaitsForWhatItCutShort(t *testing.T) {
	for name, undone := range map[string]time.Duration{"in time": undoTime / 2, "too late": 2 * undoTime} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := New()
				go func() {
					_, _ = f.Do(t.Context(), Call{Name: "run"}, func(ctx context.Context) (string, error) {
						<-ctx.Done()
						time.Sleep(undone)
						return "", context.Cause(ctx)
					})
				}()
				synctest.Wait()
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				began := time.Now()
				err := f.Drain(ctx)
				left := f.Names()
				if !errors.Is(err, context.Canceled) || time.Since(began) != min(undone, undoTime) {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
				if late := undone > undoTime; late != (len(left) > 0) || late != strings.Contains(err.Error(), "later there are still run") {
					t.Errorf("left in flight: %v; %v", left, err)
				}
				time.Sleep(undone) // it lands
			})
		})
	}
}

// A retry gets the result of the call that its client gave up; another request of that
// name is refused while the call runs.
func TestARetryJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, call := New(), Call{Name: "run a", Request: "1"}
		var began atomic.Int32
		work := func(context.Context) (string, error) {
			began.Add(1)
			time.Sleep(time.Minute)
			return "id", nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := f.Do(ctx, call, work); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the client that gave up hears %v", err)
		}
		if _, err := f.Do(t.Context(), Call{Name: "run a", Request: "2"}, work); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "run a") {
			t.Errorf("another request of that name: %v", err)
		}
		if id, err := f.Do(t.Context(), call, work); id != "id" || err != nil || began.Load() != 1 {
			t.Errorf("the retry got %q, %v; the work began %d times", id, err, began.Load())
		}
		if id, err := f.Do(t.Context(), call, work); id != "id" || err != nil || began.Load() != 2 {
			t.Errorf("a later call got %q, %v; the work began %d times", id, err, began.Load())
		}
	})
}

func TestAPanicEndsItsCallOnly(t *testing.T) {
	f := New()
	_, err := f.Do(t.Context(), Call{Name: "a"}, func(context.Context) (string, error) { panic("bug") })
	if !errors.Is(err, ErrPanicked) || len(f.Names()) > 0 {
		t.Errorf("%v; still in flight: %v", err, f.Names())
	}
	if err := f.Drain(t.Context()); err != nil || f.Lifetime().Err() == nil {
		t.Errorf("drain: %v, lifetime %v", err, f.Lifetime().Err())
	}
	_, err = f.Do(t.Context(), Call{Name: "a"}, func(context.Context) (string, error) { return "", nil })
	if !errors.Is(err, ErrStopping) {
		t.Errorf("a call after the end: %v", err)
	}
}

func TestDigestTellsRequestsApart(t *testing.T) {
	a, b := &runtimeapi.ImageSpec{Image: "a"}, &runtimeapi.ImageSpec{Image: "b"}
	if Digest(a) != Digest(&runtimeapi.ImageSpec{Image: "a"}) || Digest(a) == Digest(b) || strings.Contains(Digest(a), "a\"") {
		t.Errorf("digests %s and %s", Digest(a), Digest(b))
	}
}
