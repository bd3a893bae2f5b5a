package server

import (
	"context"

	"k8s.io/klog/v2"

	"berth/oci"
)

// wantedControllers are those a container's limits need.
var wantedControllers = []string{"cpu", "cpuset", "memory", "pids", "hugetlb"}

// sayLimits says, once at the start, what this host or this daemon's own
// privileges keep containers from having. berth does the most it can without.
func sayLimits(ctx context.Context, h oci.Host) {
	for _, l := range limits(h) {
		klog.FromContext(ctx).Info("The host limits what containers can have", "missing", l[0], "effect", l[1])
	}
}

func limits(h oci.Host) (out [][2]string) {
	for _, l := range []struct {
		have            bool
		missing, effect string
	}{
		{h.LowerOOM, "CAP_SYS_RESOURCE", "oom_score_adj is not set below the daemon's own, ALL capabilities are those the daemon has"},
		{h.Seccomp, "seccomp", "containers that ask for a profile are refused"},
		{h.AppArmor || h.SELinux, "AppArmor and SELinux", "RuntimeDefault confines by capabilities and seccomp alone, Localhost profiles are refused"},
		{!h.SELinux || h.Labels.Process != "", "types for containers in the SELinux policy", "containers run in the domain of the shim, without labels of their own"},
		{h.UserNS && h.IDMap, "user namespaces with idmapped mounts", "pods with hostUsers: false are refused"},
		{h.RRO, "recursive read-only mounts (Linux 5.12)", "containers that ask for them are refused"},
		{h.SwapAccount, "swap accounting", "limits of swap are left out"},
	} {
		if !l.have {
			out = append(out, [2]string{l.missing, l.effect})
		}
	}
	for _, c := range wantedControllers {
		if !h.Controllers[c] {
			out = append(out, [2]string{"cgroup controller " + c, "its limits are left out"})
		}
	}
	return out
}
