package sandbox

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/klog/v2"

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
		return "", v.startHeld(ctx, c)
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

// startHeld starts a container whose slot is held. Plugins may refuse it: the container,
// which can't be told to them a second time, then ends without having run.
func (v *containerVerbs) startHeld(ctx context.Context, c *Container) error {
	shim, err := c.pod.shimIn(v.shims)
	if err != nil {
		return err
	}
	done, err := v.tell.inTurn(ctx, &c.told)
	if err != nil {
		return err
	}
	defer done()
	if err := v.tell.started(ctx, c); err != nil {
		err = fmt.Errorf("start container %s: %w", c.id, err)
		return errors.Join(err, v.teardown.kill(context.WithoutCancel(ctx), c))
	}
	err = shim.Start(ctx, c.id)
	if unread := v.teardown.refreshFact(c); unread != nil { // the shim wrote it before it answered
		klog.FromContext(ctx).Error(unread, "The status of a container that has started waits for its event")
	}
	if err != nil {
		return fmt.Errorf("start container %s: %w", c.id, asDomain(err))
	}
	v.tell.tellOnly(ctx, c, ContainerPostStart)
	return nil
}
