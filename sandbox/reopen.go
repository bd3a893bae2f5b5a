package sandbox

import (
	"context"
	"fmt"

	"berth/sandbox/inflight"
)

// ReopenLog makes a running container write to a new file at its log path,
// after the kubelet renamed the old one. No byte is lost between the two.
func (v *containerVerbs) ReopenLog(ctx context.Context, id string) error {
	_, err := v.calls.Do(ctx, inflight.Call{Name: "ReopenContainerLog of " + id}, func(ctx context.Context) (string, error) {
		c, shim, err := running(v.index, v.shims, verbReopen, id)
		if err != nil {
			return "", err
		}
		if err := shim.Reopen(ctx, c.id); err != nil {
			return "", fmt.Errorf("reopen log of container %s: %w", c.id, v.teardown.refusal(c, err))
		}
		return "", nil
	})
	return err
}
