package sandbox

import (
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/oci/tinyinit"
)

// InitAnnotation on a pod, "true" or "false", asks for an init as first process of
// each of its containers that has a PID namespace of its own; under a shared one
// pause reaps already.
const InitAnnotation = "berth/init"

// checkAnnotations refuses what would be ignored in silence.
func checkAnnotations(cfg *runtimeapi.PodSandboxConfig) error {
	switch v := cfg.GetAnnotations()[InitAnnotation]; v {
	case "", "true", "false":
		return nil
	default:
		return fmt.Errorf("annotation %s is %q; make it true or false: %w", InitAnnotation, v, ErrInvalid)
	}
}

// addProgram has a container use berth's own program as what it needs it for: the
// init that its pod asks for, and variables that are not UTF-8.
func (v *containerVerbs) addProgram(ctr *oci.Container, pod *runtimeapi.PodSandboxConfig) error {
	init, bytes := pod.GetAnnotations()[InitAnnotation] == "true", oci.NeedsBytes(ctr.Config)
	if !init && !bytes {
		return nil
	}
	file, err := tinyinit.Install(v.paths.root)
	if init {
		ctr.Init = file
	}
	if bytes {
		ctr.Bytes = file
	}
	return err
}
