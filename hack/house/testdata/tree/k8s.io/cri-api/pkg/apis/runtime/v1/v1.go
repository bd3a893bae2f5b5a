// Package v1 stands for the CRI's messages.
package v1

type RunPodSandboxRequest struct{ Config *PodSandboxConfig }

type PodSandboxConfig struct{ Hostname string }

func (c *PodSandboxConfig) GetHostname() string { return c.Hostname }
