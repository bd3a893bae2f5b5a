// Package cri has a handler that does its work in a function literal.
package cri

import (
	"context"
	"errors"

	"fixture/google.golang.org/grpc"
	v1 "fixture/k8s.io/cri-api/pkg/apis/runtime/v1"
	"fixture/sandbox"
)

type service struct {
	flights flights
	pods    *sandbox.Manager
}

// Unary is called before each handler.
func Unary(_ context.Context, req any, _ *grpc.UnaryServerInfo, handler func(any) (any, error)) (any, error) {
	return handler(req)
}

func (s *service) RunPodSandbox(_ context.Context, r *v1.RunPodSandboxRequest) (string, error) {
	if r.Config.GetHostname() == "" {
		return "", errors.New("no hostname")
	}
	if err := s.pods.Hello(); err != nil {
		return "", err
	}
	return s.flights.do(func() (string, error) { return s.pods.RunPod(r.Config) })
}

// Service is what gRPC serves.
func Service() any { return &service{} }

type flights struct{ work chan func() }

// do the work of flights.
func (f *flights) do(work func() (string, error)) (id string, err error) {
	done := make(chan struct{})
	go func() {
		id, err = work()
		close(done)
	}()
	<-done
	return id, err
}

func tooMany(a, b, c, d, e, f int) int {
	switch {
	case a > b && c > d:
		return e
	default:
		return f
	}
}

// Sum of it all is never asked for.
var Sum = tooMany(1, 2, 3, 4, 5, 6)
