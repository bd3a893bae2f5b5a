// Package shimapi is the wire.
package shimapi

const (
	MethodHello  = "hello"
	MethodRunPod = "run-pod"
)

type RunPodRequest struct{}

func WriteFrame(any) error { return nil }

func ReadFrame(any) error { return nil }
