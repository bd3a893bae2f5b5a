package shims

import (
	"context"
	"errors"
	"fmt"
	"time"

	"berth/oci/shimapi"
)

// ErrStuck is wrapped by a call that a living shim did not answer in time.
var ErrStuck = errors.New("shim does not answer")

// answerPatience bounds the calls that a shim answers in milliseconds, or, where it
// kills and waits, in seconds: no verb may hang on one shim for ever. It is a
// variable for the tests.
var answerPatience = 60 * time.Second

// greetPatience bounds the question whether a shim still answers, before it is
// given another pod.
const greetPatience = 2 * time.Second

// askInTime is ask with a bound.
func (sh *Shim) askInTime(ctx context.Context, method string, request, response any) error {
	return sh.inTime(ctx, answerPatience, func(ctx context.Context) error {
		return sh.ask(ctx, method, request, response)
	})
}

// inTime marks a shim that lets a call wait for longer than patience, and takes the
// mark from one that answers.
func (sh *Shim) inTime(ctx context.Context, patience time.Duration, call func(context.Context) error) error {
	bounded, cancel := context.WithTimeoutCause(ctx, patience, ErrStuck)
	defer cancel()
	err := call(bounded)
	switch stuck := errors.Is(err, ErrStuck); {
	case err == nil, errors.As(err, new(*shimapi.Error)):
		sh.stuck.Store(false)
	case stuck:
		sh.stuck.Store(true)
		return fmt.Errorf("shim %s, pid %d, has not answered for %s; see its state in /proc/%d/status, and end it if it is past help, for another to take over: %w", sh.id, sh.pid, patience, sh.pid, ErrStuck)
	}
	return err
}

// answering finds a shim with room that answers; nil: none does.
func (s *Set) answering(ctx context.Context) *Shim {
	for {
		sh := s.withRoom()
		if sh == nil {
			return nil
		}
		err := sh.inTime(ctx, greetPatience, func(ctx context.Context) error {
			return sh.ask(ctx, shimapi.MethodHello, struct{}{}, nil)
		})
		if !errors.Is(err, ErrStuck) {
			return sh // of another error the next call tells
		}
		sh.Release()
	}
}
