package sandbox

import (
	"errors"
	"fmt"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/oci/shimapi"
)

// podPlan is all that is decided about a pod sandbox before anything is made for it. It
// is a pure function of the configuration, the ID and the facts about the host; RunPod
// only carries it out. What may be asked of a pod is checked here, except for what
// depends on the node at that moment (see checkNode).
type podPlan struct {
	Pause    shimapi.RunPodRequest // the process that holds the namespaces
	Hostname string                // of the file bound into containers
	// Shm are the mount options of the pod's /dev/shm; "" when it uses the host's IPC.
	Shm string
	// Labels are the SELinux labels of pause and of the pod's files.
	Labels oci.Labels `json:",omitzero"`
	// Owner is the host's user and group that the pod's root is, which may write the
	// pod's files; nil without a user namespace.
	Owner *fileOwner
	// LateSysctls can only be written when the pod is attached to its network.
	LateSysctls map[string]string
	DNS         *runtimeapi.DNSConfig
	// CgroupParent is the cgroup that those of the containers are made in.
	CgroupParent string
}

// fileOwner is a user and group of the host.
type fileOwner struct{ UID, GID uint32 }

// pauseOOMScore is what both peers give: the last of a pod to be killed.
const pauseOOMScore = -998

// checkPodDevices refuses a pod of which no container could be created, for the devices that
// its annotations ask for or its runtime class gives.
func checkPodDevices(rec *podRecord, h oci.Host) error {
	_, asked := podDevices(rec.config, rec.allowedDevices(h))
	_, given := rec.givenDevices()
	return errors.Join(asked, given)
}

// planPod decides about a pod. rec has the ID, the configuration and what is derived of
// them. The error wraps [ErrInvalid] or [ErrUnsupported] and says what to change.
func planPod(rec *podRecord, h oci.Host, paths layout) (podPlan, error) {
	cfg := rec.config
	security, err := oci.PodSecurityOf(cfg, h)
	if err != nil {
		return podPlan{}, asDomain(err)
	}
	if err := errors.Join(checkPodFiles(cfg), checkPorts(cfg), checkSysctls(cfg), checkPodAnnotations(cfg), checkPodLimits(cfg), checkPodDevices(rec, h)); err != nil {
		return podPlan{}, err
	}
	parent := cgroupParent(h, rec)
	cgroup, err := oci.CgroupsPath(parent, rec.ID, h)
	if err != nil {
		return podPlan{}, asDomain(err) // no container of it could be created
	}
	labels, err := oci.PodLabels(cfg, rec.SELinuxLevel, h)
	if err != nil {
		return podPlan{}, asDomain(err)
	}
	limits, err := podLimits(cfg, h, parent)
	if err != nil {
		return podPlan{}, err
	}
	early, late := splitSysctls(podSysctls(cfg))
	plan := podPlan{
		Hostname: hostname(cfg, h), LateSysctls: late, DNS: cfg.GetDnsConfig(), CgroupParent: parent, Labels: labels,
		Pause: shimapi.RunPodRequest{
			ID: rec.ID, Dir: paths.podDir(rec.ID),
			NewNet: rec.netns != "", NetNSPath: rec.netns, NewUTS: rec.netns != "", NewIPC: !hostIPC(cfg), NewPID: sharedPID(cfg),
			UIDMaps: rec.uids, GIDMaps: rec.gids, Sysctls: early,
			CgroupPath: strings.TrimPrefix(cgroup, "/"), Systemd: h.SystemdCgroup, Limits: limits, OOMScoreAdj: clampOOM(h, pauseOOMScore),
			User: &security.User, AppArmor: security.AppArmor, SELinux: labels.Process,
		},
	}
	if rec.hasContainer() {
		plan.Pause.CgroupPath = "" // the container's
	}
	if plan.Pause.NewUTS {
		plan.Pause.Hostname = plan.Hostname
	}
	if len(rec.uids) > 0 {
		plan.Owner = &fileOwner{UID: rootOf(rec.uids), GID: rootOf(rec.gids)}
	}
	if plan.Pause.NewIPC {
		size, err := shmSize(cfg, h.Defaults.ShmSize)
		if err != nil {
			return podPlan{}, err
		}
		plan.Shm = shmOptions(plan.Owner, size)
	}
	return plan, nil
}

// shmOptions gives the tmpfs to the pod's root, which is not the host's in a
// user namespace.
func shmOptions(owner *fileOwner, size int64) string {
	opts := fmt.Sprintf("mode=1777,size=%d", size)
	if owner != nil {
		opts += fmt.Sprintf(",uid=%d,gid=%d", owner.UID, owner.GID)
	}
	return opts
}

// hostname is the pod's own, or the node's when it has none or shares the node's network.
func hostname(cfg *runtimeapi.PodSandboxConfig, h oci.Host) string {
	if cfg.GetHostname() != "" && !hostNetwork(cfg) {
		return cfg.GetHostname()
	}
	return h.Hostname
}

// clampOOM raises a score to what the daemon may set: without CAP_SYS_RESOURCE
// nothing below its own (proc_pid_oom_score_adj(5)).
func clampOOM(h oci.Host, score int) int {
	if h.LowerOOM {
		return score
	}
	return max(score, h.OOMScoreAdj)
}
