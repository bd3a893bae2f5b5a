package oci

import (
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestScopeHasTheGracePeriod(t *testing.T) {
	for said, want := range map[string]time.Duration{
		"": 30 * time.Second, "77": 77 * time.Second, "0": time.Second, "-5": time.Second, "soon": 30 * time.Second,
		"9223372036854775807": 30 * time.Minute, "99999999999999999999": 30 * time.Second,
	} {
		c := &runtimeapi.ContainerConfig{Annotations: map[string]string{GraceAnnotation: said}}
		if got := Scope(c, 3, Host{SystemdCgroup: true}); got == nil || got.StopTimeout != want || got.StopSignal != 3 {
			t.Errorf("%q: %+v, want %v and signal 3", said, got, want)
		}
		if got := Scope(c, 3, Host{}); got != nil {
			t.Errorf("without systemd: %+v", got)
		}
	}
	if got := Scope(nil, 15, Host{SystemdCgroup: true}); got.StopTimeout != usualGrace {
		t.Errorf("without a configuration: %+v", got)
	}
}
