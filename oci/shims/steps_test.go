package shims

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestStepsMayTakeLongTogether: many steps that are each in time are no reason to give up,
// one that is not in time is, and so is a set that was closed meanwhile.
func TestStepsMayTakeLongTogether(t *testing.T) {
	const each = 200 * time.Millisecond
	was := stepPatience
	stepPatience = 5 * each
	defer func() { stepPatience = was }()
	end, closed := context.WithCancel(t.Context())
	ctx, next, done := inSteps(end)
	defer done()
	for i := range 10 {
		select {
		case <-ctx.Done():
			t.Fatalf("given up in step %d: %v", i, context.Cause(ctx))
		case <-time.After(each):
			next()
		}
	}
	closed()
	select {
	case <-ctx.Done():
	case <-time.After(closePatience):
		t.Fatal("a step without an end is waited for")
	}
	if err := context.Cause(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the reason is %v", err)
	}
}
