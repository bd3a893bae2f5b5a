// Package client sends requests.
package client

import "fixture/oci/shimapi"

type Shim struct{}

func (s Shim) Hello() error { return shimapi.WriteFrame(shimapi.MethodHello) }

func (s Shim) RunPod() error { return s.ask(shimapi.MethodRunPod) }

func (s Shim) ask(method string) error { return shimapi.WriteFrame(method) }
