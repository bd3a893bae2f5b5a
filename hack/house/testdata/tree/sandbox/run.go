// Package sandbox asks the same question as package cri.
package sandbox

import (
	"errors"

	v1 "fixture/k8s.io/cri-api/pkg/apis/runtime/v1"
	"fixture/oci/client"
)

// Manager has two methods.
type Manager struct {
	shims client.Shim
	a, b  int
}

// RunPod runs a pod and gives its ID.
func (m *Manager) RunPod(c *v1.PodSandboxConfig) (string, error) {
	if len(c.Hostname) > 64 {
		return "", errors.New("hostname too long")
	}
	return "id", m.shims.RunPod()
}

// Hello asks the shim who it is.
func (m *Manager) Hello() error { return m.shims.Hello() }
