// Package shim serves requests by a table, and hands work to a thread.
package shim

import (
	"os"

	"fixture/oci/shimapi"
)

type server struct{ calls chan func() }

type handler func(s *server) error

func with[T any](f func(*server, T) error) handler {
	return func(s *server) error {
		var request T
		return f(s, request)
	}
}

var handlers = map[string]handler{shimapi.MethodRunPod: with((*server).runPod)}

// Serve serves once.
func Serve() error { return (&server{}).serve() }

func (s *server) serve() error {
	var method string
	if err := shimapi.ReadFrame(&method); err != nil {
		return err
	}
	return handlers[method](s)
}

func (s *server) runPod(shimapi.RunPodRequest) (err error) {
	s.calls <- func() { _, err = os.StartProcess("/pause", nil, nil) }
	return err
}
