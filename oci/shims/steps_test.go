package shims

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// givenUp tells after how long the context ends, while steps of a length are taken.
func givenUp(ctx context.Context, t *testing.T, next func(), each time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the reason is %v", err)
			}
			return time.Since(began)
		case <-time.After(each):
			next()
		}
		if time.Since(began) > time.Hour {
			return time.Since(began)
		}
	}
}

// TestStepsMayTakeLongTogether: many steps that are each in time are no reason to give up.
func TestStepsMayTakeLongTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, next, done := inSteps(t.Context())
		if after := givenUp(ctx, t, next, stepPatience/2); after < time.Hour {
			t.Errorf("given up after %v, each step took %v", after, stepPatience/2)
		}
		done()
	})
}

// TestStepThatTakesTooLong: one that is not in time is a reason.
func TestStepThatTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, next, done := inSteps(t.Context())
		defer done()
		if after := givenUp(ctx, t, next, 2*stepPatience); after != stepPatience {
			t.Errorf("given up after %v, want %v", after, stepPatience)
		}
	})
}

// TestStepsOfAClosedSet: a set that was closed is a reason a while later, however quick the
// steps are.
func TestStepsOfAClosedSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end, closed := context.WithCancel(t.Context())
		ctx, next, done := inSteps(end)
		defer done()
		closed()
		if after := givenUp(ctx, t, next, ClosePatience/100); after != ClosePatience {
			t.Errorf("given up after %v, want %v", after, ClosePatience)
		}
	})
}
