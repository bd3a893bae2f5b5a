package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RemovePod stops a pod sandbox and removes it with its containers. Idempotent;
// an unknown ID is no error.
func (m *Manager) RemovePod(ctx context.Context, id string) error {
	s, err := m.pod(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	s.beginStop()
	if err := m.stopContainersOf(ctx, s); err != nil {
		return err
	}
	if err := s.slot.take(ctx); err != nil {
		return err
	}
	defer s.slot.free()
	containers := m.containersOf(s)
	if err := m.destroyPod(ctx, s); err != nil {
		return fmt.Errorf("remove pod sandbox %s: %w", s.id, err)
	}
	for _, c := range containers {
		m.publishDeleted(c)
	}
	m.events.publish(podEvent(s, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT))
	return nil
}

// RemoveContainer kills a container if it still runs and removes it. Idempotent;
// an unknown ID is no error.
func (m *Manager) RemoveContainer(ctx context.Context, id string) error {
	c, err := m.container(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := m.stop(ctx, c, 0); err != nil {
		return err
	}
	if err := c.slot.take(ctx); err != nil {
		return err
	}
	defer c.slot.free()
	if err := m.destroyContainer(ctx, c); err != nil {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	m.publishDeleted(c)
	return nil
}

func (m *Manager) publishDeleted(c *Container) {
	m.events.publish(Event{
		Type: runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, PodID: c.pod.id, ContainerID: c.id, At: time.Now(),
	})
}
