package shims

import (
	"context"
	"fmt"
	"time"
)

// stepPatience bounds each step of a handover: the start of the replacement, and the
// adoption of each pod and container. It is not a bound of the whole: the more a shim
// held, and the busier the node is, the longer a handover takes that goes well, and one
// that is given up begins again. It is a variable for the tests.
var stepPatience = 30 * time.Second

// ClosePatience bounds what is left of a handover when the set is closed. It is less than
// systemd waits for the end of the daemon.
const ClosePatience = patience

// inSteps is a context for what is done in steps. It ends when a step takes more than
// stepPatience, or more than ClosePatience after end has ended. next begins the next step,
// and done releases the context.
func inSteps(end context.Context) (ctx context.Context, next, done func()) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(end))
	late := func(after time.Duration) func() {
		return func() { cancel(fmt.Errorf("no step within %v: %w", after, context.DeadlineExceeded)) }
	}
	step := time.AfterFunc(stepPatience, late(stepPatience))
	closing := context.AfterFunc(end, func() {
		select {
		case <-ctx.Done():
		case <-time.After(ClosePatience):
			late(ClosePatience)()
		}
	})
	return ctx, func() { step.Reset(stepPatience) }, func() {
		step.Stop()
		closing()
		cancel(nil)
	}
}
