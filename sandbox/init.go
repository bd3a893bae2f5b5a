package sandbox

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// InitAnnotation on a pod, "true" or "false", asks for an init as first process of
// each of its containers that has a PID namespace of its own; under a shared one
// pause reaps already.
const InitAnnotation = "berth/init"

// checkPodAnnotations refuses values of the pod's annotations that would be ignored in
// silence.
func checkPodAnnotations(cfg *runtimeapi.PodSandboxConfig) error {
	switch v := cfg.GetAnnotations()[InitAnnotation]; v {
	case "", "true", "false":
		return checkClasses(cfg.GetAnnotations())
	default:
		return failed(ErrInvalid, "annotation %s is %q; make it true or false", InitAnnotation, v)
	}
}
