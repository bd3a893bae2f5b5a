package sandbox

import (
	"context"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
)

// StartContainer lets a created container's process run. When its program can't
// be executed the container ends EXITED with code 128 and reason StartError.
func (m *Manager) StartContainer(ctx context.Context, id string) error {
	c, err := m.container(id)
	if err != nil {
		return err
	}
	if err := c.slot.take(ctx); err != nil {
		return err
	}
	defer c.slot.free()
	if st := c.state(); st != runtimeapi.ContainerState_CONTAINER_CREATED {
		return fmt.Errorf("container %s is %s, only a created one can be started: %w", c.id, stateWord(st), ErrState)
	}
	if err := c.pod.checkReady(); err != nil {
		return err
	}
	shim, err := m.shimOf(c.pod)
	if err != nil {
		return err
	}
	err = shim.Start(ctx, c.id)
	m.refreshFact(c) // the shim wrote it before it answered
	if err != nil {
		return fmt.Errorf("start container %s: %w", c.id, asDomain(err))
	}
	return nil
}

func stateWord(s runtimeapi.ContainerState) string {
	switch s {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return "created"
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return "running"
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return "exited"
	default:
		return "in an unknown state"
	}
}

// ReopenLog makes a running container write to a new file at its log path,
// after the kubelet renamed the old one. No byte is lost between the two.
func (m *Manager) ReopenLog(ctx context.Context, id string) error {
	c, shim, err := m.running(id)
	if err != nil {
		return err
	}
	if err := shim.Reopen(ctx, c.id); err != nil {
		return fmt.Errorf("reopen log of container %s: %w", c.id, asDomain(err))
	}
	return nil
}

// running finds a running container and its shim.
func (m *Manager) running(id string) (*Container, *oci.Shim, error) {
	c, err := m.container(id)
	if err != nil {
		return nil, nil, err
	}
	if st := c.state(); st != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil, nil, fmt.Errorf("container %s is %s, not running: %w", c.id, stateWord(st), ErrState)
	}
	shim, err := m.shimOf(c.pod)
	return c, shim, err
}
