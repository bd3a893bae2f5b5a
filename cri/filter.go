package cri

import (
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
)

// Filters are AND-ed; an ID matches by prefix, labels by equality.

func matchPod(p *sandbox.PodStatus, f *runtimeapi.PodSandboxFilter) bool {
	return strings.HasPrefix(p.ID, f.GetId()) &&
		(f.GetState() == nil || f.GetState().GetState() == p.State) &&
		matchLabels(p.Config.GetLabels(), f.GetLabelSelector())
}

func matchContainer(c *sandbox.ContainerStatus, f *runtimeapi.ContainerFilter) bool {
	return strings.HasPrefix(c.ID, f.GetId()) &&
		strings.HasPrefix(c.PodID, f.GetPodSandboxId()) &&
		(f.GetState() == nil || f.GetState().GetState() == c.State) &&
		matchLabels(c.Config.GetLabels(), f.GetLabelSelector())
}

func matchLabels(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}
