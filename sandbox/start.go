package sandbox

import (
	"context"
	"fmt"

	"berth/sandbox/inflight"
)

// StartContainer lets a created container's process run. When its program can't
// be executed the container ends EXITED with code 128 and reason StartError.
func (v *containerVerbs) StartContainer(ctx context.Context, id string) error {
	work := func(ctx context.Context) (string, error) {
		c, err := v.index.container(id)
		if err != nil {
			return "", err
		}
		if err := c.slot.take(ctx); err != nil {
			return "", err
		}
		defer c.slot.free()
		if _, err := c.guard(verbStart); err != nil {
			return "", err
		}
		shim, err := c.pod.shimIn(v.shims)
		if err != nil {
			return "", err
		}
		err = shim.Start(ctx, c.id)
		v.teardown.refreshFact(c) // the shim wrote it before it answered
		if err != nil {
			return "", fmt.Errorf("start container %s: %w", c.id, asDomain(err))
		}
		return "", nil
	}
	call, first, err := v.calls.Begin(ctx, inflight.Call{Name: "StartContainer of " + id})
	if err != nil {
		return err
	}
	if first {
		go func() { // ends when work returns, which obeys its context
			defer call.End()
			call.Give(work(call.Context()))
		}()
	}
	_, err = call.Wait(ctx)
	return err
}
