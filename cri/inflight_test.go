package cri

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox/inflight"
)

// gate holds a verb up until it is opened, and says when one has arrived.
type gate struct {
	arrived chan struct{}
	open    chan struct{}
}

func newGate() gate { return gate{make(chan struct{}, 8), make(chan struct{})} }

func (g gate) hook(ctx context.Context, _ string) error {
	g.arrived <- struct{}{}
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func TestPullsOfOneImageAreOne(t *testing.T) {
	f, g := newFake(), newGate()
	f.hook = g.hook
	_, conn := serve(t, options(f))
	client := runtimeapi.NewImageServiceClient(conn)
	pull := func(ctx context.Context, password, pod string) error {
		_, err := client.PullImage(ctx, &runtimeapi.PullImageRequest{
			Image: &runtimeapi.ImageSpec{Image: "busybox"}, SandboxConfig: podConfig(pod),
			Auth: &runtimeapi.AuthConfig{Username: "u", Password: password},
		})
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := pull(ctx, "x", "a"); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("pull that times out: %v", err)
	}
	done := make(chan error, 3)
	for range 2 {
		go func() { done <- pull(context.Background(), "x", "b") }()
	}
	<-g.arrived
	go func() { done <- pull(context.Background(), "other", "a") }()
	<-g.arrived // other credentials are another pull
	close(g.open)
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestDrainWaitsThenCancels(t *testing.T) {
	f, g := newFake(), newGate()
	f.hook = g.hook
	s, conn := serve(t, options(f))
	client := runtimeapi.NewRuntimeServiceClient(conn)
	done := make(chan error, 1)
	go func() {
		_, err := client.StopPodSandbox(context.Background(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: "p"})
		done <- err
	}()
	<-g.arrived
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Drain(ctx); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "StopPodSandbox of p") {
		t.Errorf("drain: %v", err)
	}
	if err := <-done; !strings.Contains(err.Error(), inflight.ErrStopping.Error()) {
		t.Errorf("the call that was cut: %v", err)
	}
	if _, err := client.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: "p"}); status.Code(err) != codes.Unavailable {
		t.Errorf("a call after drain: %v", err)
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestDrainOfAnIdleServer(t *testing.T) {
	s, _ := serve(t, options(newFake()))
	if err := s.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}
