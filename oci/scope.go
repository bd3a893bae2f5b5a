package oci

import (
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/shimapi"
)

// GraceAnnotation is where the kubelet writes a pod's terminationGracePeriodSeconds, on
// each container (kuberuntime/labels.go).
const GraceAnnotation = "io.kubernetes.pod.terminationGracePeriod"

const (
	// usualGrace is what Kubernetes gives a pod that says nothing.
	usualGrace = 30 * time.Second
	// mostGrace bounds what a pod may make a shutdown of its node wait. systemd itself
	// forces a reboot or poweroff after that time (JobTimeoutSec of poweroff.target).
	mostGrace = 30 * time.Minute
	// leastGrace lets a container of a pod with a grace period of 0 see its signal.
	leastGrace = time.Second
)

// Scope is what systemd is to do with a container as the node shuts down; nil where
// cgroups are not systemd's. stopSignal is that of [StopSignal].
func Scope(c *runtimeapi.ContainerConfig, stopSignal int, h Host) *shimapi.Scope {
	if !h.SystemdCgroup {
		return nil
	}
	grace := usualGrace
	if seconds, err := strconv.ParseInt(c.GetAnnotations()[GraceAnnotation], 10, 64); err == nil {
		// Bounded as a number first, since a duration may overflow.
		grace = time.Duration(min(max(seconds, 0), int64(mostGrace/time.Second))) * time.Second
	}
	return &shimapi.Scope{StopTimeout: max(grace, leastGrace), StopSignal: stopSignal}
}
