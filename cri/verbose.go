package cri

import (
	"encoding/json"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
)

// podDetails is the verbose part of a pod's status. The keys that containerd
// has too mean the same, since tools read them through crictl inspectp.
type podDetails struct {
	SandboxID      string                       `json:"sandboxID"`
	PID            int                          `json:"pid"`
	NetNS          string                       `json:"netNS,omitempty"`
	ShimID         string                       `json:"shimID,omitempty"`
	RuntimeHandler string                       `json:"runtimeHandler"`
	Config         *runtimeapi.PodSandboxConfig `json:"config"`
	RuntimeSpec    *specs.Spec                  `json:"runtimeSpec"`
	Warnings       []string                     `json:"warnings,omitempty"` // limits that nobody enforces
}

// unenforcedOfPod tells of limits of a pod that nobody enforces. A client that names the
// pod's cgroup has set its limits there, as the kubelet does; the CRI leaves it to it.
func unenforcedOfPod(l *runtimeapi.LinuxPodSandboxConfig) []string {
	if l.GetCgroupParent() != "" || proto.Size(l.GetResources()) == 0 && proto.Size(l.GetOverhead()) == 0 {
		return nil
	}
	return []string{"linux.resources and linux.overhead have no effect: the pod names no linux.cgroup_parent in which its client has set them"}
}

func podInfo(p *sandbox.PodStatus) (map[string]string, error) {
	spec := &specs.Spec{Version: specs.Version, Linux: &specs.Linux{}}
	if p.NetNS != "" {
		spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: p.NetNS}}
	}
	return infoJSON(podDetails{
		SandboxID: p.ID, PID: p.PID, NetNS: p.NetNS, ShimID: p.ShimID,
		RuntimeHandler: p.Handler, Config: p.Config, RuntimeSpec: spec,
		Warnings: unenforcedOfPod(p.Config.GetLinux()),
	})
}

// containerDetails is the verbose part of a container's status.
type containerDetails struct {
	SandboxID   string                      `json:"sandboxID"`
	PID         int                         `json:"pid"`
	Privileged  bool                        `json:"privileged"`
	ImageID     string                      `json:"imageID"`
	Cgroups     map[string]string           `json:"cgroups,omitempty"`
	Config      *runtimeapi.ContainerConfig `json:"config"`
	RuntimeSpec json.RawMessage             `json:"runtimeSpec,omitempty"`
	// Warnings are limits that this node can't enforce.
	Warnings          []string          `json:"warnings,omitempty"`
	UpdateAnnotations map[string]string `json:"updateAnnotations,omitempty"`
}

func containerInfo(c *sandbox.ContainerStatus) (map[string]string, error) {
	return infoJSON(containerDetails{
		SandboxID: c.PodID, PID: c.PID, ImageID: c.ImageID, Cgroups: c.Cgroups,
		Privileged: c.Config.GetLinux().GetSecurityContext().GetPrivileged(),
		Config:     c.Config, RuntimeSpec: c.Spec, Warnings: c.Unenforced, UpdateAnnotations: c.UpdateAnnotations,
	})
}

// infoJSON puts details under the one key "info", as clients expect.
func infoJSON(details any) (map[string]string, error) {
	b, err := json.Marshal(details)
	if err != nil {
		return nil, fmt.Errorf("encode verbose information: %w", err)
	}
	return map[string]string{"info": string(b)}, nil
}
