package sandbox

import (
	"context"
	"errors"
	"fmt"

	"berth/sandbox/inflight"
)

// RemovePod stops a pod sandbox and removes it with its containers. Idempotent;
// an unknown ID is no error.
func (p *podVerbs) RemovePod(ctx context.Context, id string) error {
	_, err := p.calls.Do(ctx, inflight.Call{Name: "RemovePodSandbox of " + id}, func(ctx context.Context) (string, error) {
		return "", p.remove(ctx, id)
	})
	return err
}

func (p *podVerbs) remove(ctx context.Context, id string) error {
	s, err := p.index.pod(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	s.beginStop()
	if err := p.teardown.stopContainersOf(ctx, s); err != nil {
		return err
	}
	if err := s.slot.take(ctx); err != nil {
		return err
	}
	defer s.slot.free()
	if err := p.teardown.destroyPod(ctx, s); err != nil {
		return fmt.Errorf("remove pod sandbox %s: %w", s.id, err)
	}
	return nil
}

// RemoveContainer kills a container if it still runs and removes it. Idempotent;
// an unknown ID is no error.
func (v *containerVerbs) RemoveContainer(ctx context.Context, id string) error {
	_, err := v.calls.Do(ctx, inflight.Call{Name: "RemoveContainer of " + id}, func(ctx context.Context) (string, error) {
		return "", v.remove(ctx, id)
	})
	return err
}

func (v *containerVerbs) remove(ctx context.Context, id string) error {
	c, err := v.index.container(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := v.teardown.stop(ctx, c, 0); err != nil {
		return err
	}
	if err := c.slot.take(ctx); err != nil {
		return err
	}
	defer c.slot.free()
	if err := v.teardown.destroyContainer(ctx, c); err != nil {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	return nil
}
