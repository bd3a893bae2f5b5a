package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/oci"
	"berth/oci/shimapi"
	"berth/sandbox/inflight"
	"berth/sandbox/record"
)

// podVerbs are the verbs on pod sandboxes.
type podVerbs struct {
	paths    layout
	index    *index
	teardown *teardown
	health   *health
	network  Network
	mounts   Mounts
	host     oci.Host
	handlers []string
	bootID   string
	events   *broadcaster
	calls    *inflight.Calls
}

// shmSize is the size of a pod's /dev/shm in bytes, what both peers give.
const shmSize = 64 << 20

// RunPod makes a pod sandbox ready: namespaces held by a pause process, files,
// shared memory and network. On error nothing is left behind.
//
// Pods of one name are told apart as the comment in retry.go says.
func (p *podVerbs) RunPod(ctx context.Context, cfg *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	return p.calls.Do(ctx, runPodCall(cfg, handler), func(ctx context.Context) (string, error) {
		if id, err := p.madeBefore(ctx, cfg, handler); id != "" || err != nil {
			return id, err
		}
		s, err := p.newPod(cfg, handler)
		if err != nil {
			return "", err
		}
		if err := s.slot.take(ctx); err != nil {
			return "", err
		}
		defer s.slot.free()
		p.index.addPod(s)
		if err := p.acquire(ctx, s); err != nil {
			// The half-made pod goes, whatever became of the client.
			if derr := p.teardown.destroyPod(context.WithoutCancel(ctx), s); derr != nil {
				klog.FromContext(ctx).Error(derr, "A pod sandbox that failed to start is not wholly gone; it is listed as not ready until it is removed", "pod", s.id)
				s.show()
			}
			return "", err
		}
		p.events.publish(podEvent(s, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT))
		p.events.publish(podEvent(s, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT))
		return s.id, nil
	})
}

func podEvent(s *Sandbox, t runtimeapi.ContainerEventType) Event {
	return Event{Type: t, PodID: s.id, ContainerID: s.id, At: time.Now()}
}

// checkPodConfig refuses what can't become a pod before anything is acquired.
func (p *podVerbs) checkPodConfig(cfg *runtimeapi.PodSandboxConfig, handler string) error {
	if handler != "" && !slices.Contains(p.handlers, handler) {
		return fmt.Errorf("runtime handler %q is not configured; leave it empty or use one of %q: %w", handler, p.handlers, ErrInvalid)
	}
	if _, err := oci.PodSecurityOf(cfg, p.host); err != nil {
		return asDomain(err)
	}
	if err := errors.Join(checkSysctls(cfg), checkAnnotations(cfg)); err != nil {
		return err
	}
	if err := oci.CheckPodProfiles(cfg.GetLinux().GetSecurityContext(), p.host); err != nil {
		return asDomain(err)
	}
	if _, err := oci.CgroupsPath(cfg.GetLinux().GetCgroupParent(), "", p.host); err != nil {
		return asDomain(err) // no container of it could be created
	}
	if !hostNetwork(cfg) {
		if err := p.network.Ready(); err != nil {
			return fmt.Errorf("%w: %w", err, ErrNotReady)
		}
	}
	if uids, _ := userMaps(cfg); len(uids) > 0 {
		return checkTraversable(p.paths.state)
	}
	return nil
}

// newPod checks what is asked for and gives the pod of which nothing is made yet.
func (p *podVerbs) newPod(cfg *runtimeapi.PodSandboxConfig, handler string) (*Sandbox, error) {
	if err := p.checkPodConfig(cfg, handler); err != nil {
		return nil, err
	}
	enc, err := encodeConfig(cfg)
	if err != nil {
		return nil, err
	}
	rec := podRecord{config: cfg, Pod: record.Pod{
		Version: record.Version, ID: newID(), Intent: record.Making,
		Config: enc, Handler: handler, CreatedAt: time.Now().UTC(), BootID: p.bootID,
	}}
	if !hostNetwork(cfg) {
		rec.netns = p.paths.netnsPath(rec.ID)
	}
	rec.MadeCgroup = topMissing(p.host, cgroupParent(p.host, &rec))
	return newSandbox(p.paths.podFile(rec.ID, record.PodFile), rec), nil
}

// acquire makes all that belongs to a pod, in the order that destroyPod releases from
// the end.
func (p *podVerbs) acquire(ctx context.Context, s *Sandbox) error {
	shim, err := p.health.newShim(ctx)
	if err != nil {
		return err
	}
	if err := p.preparePod(s, shim.ID()); err != nil {
		shim.Release()
		return err
	}
	pause, err := p.pauseRequest(s.rec.get())
	if err != nil {
		shim.Release()
		return err
	}
	res, err := shim.RunPod(ctx, pause)
	if isKind(err, shimapi.KindInvalid) {
		err = asDomain(err)
	}
	if err != nil {
		return fmt.Errorf("start the pause process: %w", err)
	}
	if err := s.change(inMemory, func(rec *podRecord) { rec.PausePID, rec.PauseStart = res.PID, res.StartTime }); err != nil {
		return err
	}
	var network *NetworkResult
	if rec := s.rec.get(); rec.netns != "" {
		got, err := p.network.Attach(ctx, PodNetwork{PodID: s.id, NetNS: rec.netns, Config: rec.config})
		if err != nil {
			return fmt.Errorf("set up pod network: %w", err)
		}
		network = &got
		if err := writeLateSysctls(rec); err != nil {
			return err
		}
	}
	// Not durable: after a crash of the machine the pod is gone either way, and
	// the network's own cache, which is durable, serves to release its addresses.
	return s.change(written, func(rec *podRecord) { rec.Network, rec.Intent = network, record.Ready })
}

// preparePod makes what is on disk and in the mount table.
func (p *podVerbs) preparePod(s *Sandbox, shim string) error {
	if err := os.MkdirAll(p.paths.containersDir(s.id), 0o711); err != nil {
		return fmt.Errorf("make pod directory: %w", err)
	}
	// Durable before anything is acquired: what a crash leaves is found by it.
	if err := s.change(durably, func(rec *podRecord) { rec.ShimID = shim }); err != nil {
		return err
	}
	return p.makePodFiles(s.rec.get())
}

// makePodFiles makes the shared memory and the files bound into containers.
func (p *podVerbs) makePodFiles(rec *podRecord) error {
	if err := os.MkdirAll(p.paths.podStateDir(rec.ID), 0o711); err != nil {
		return fmt.Errorf("make pod state directory: %w", err)
	}
	if !hostIPC(rec.config) {
		shm := p.paths.shmPath(rec.ID)
		if err := os.Mkdir(shm, 0o711); err != nil {
			return fmt.Errorf("make shared memory directory: %w", err)
		}
		if err := p.mounts.MountShm(shm, shmOptions(rec)); err != nil {
			return fmt.Errorf("mount shared memory: %w", err)
		}
	}
	return p.writePodFiles(rec)
}

// shmOptions gives the tmpfs to the pod's root, which is not the host's in a
// user namespace.
func shmOptions(rec *podRecord) string {
	opts := fmt.Sprintf("mode=1777,size=%d", shmSize)
	if uids, gids := userMaps(rec.config); len(uids) > 0 {
		opts += fmt.Sprintf(",uid=%d,gid=%d", rootOf(uids), rootOf(gids))
	}
	return opts
}

func (p *podVerbs) writePodFiles(rec *podRecord) error {
	hostResolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the host's resolv.conf: %w", err)
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil {
		hosts = []byte("127.0.0.1\tlocalhost\n::1\tlocalhost\n")
	}
	for name, data := range map[string][]byte{
		"hostname":    []byte(p.hostname(rec.config) + "\n"),
		"hosts":       hosts,
		"resolv.conf": oci.ResolvConf(rec.config.GetDnsConfig(), hostResolv),
	} {
		// Rewritten whole at the next start of the pod, so no fsync.
		err := os.WriteFile(p.paths.podFile(rec.ID, name), data, 0o644) //nolint:forbidigo // not a record
		if uids, gids := userMaps(rec.config); err == nil && len(uids) > 0 {
			err = os.Chown(p.paths.podFile(rec.ID, name), int(rootOf(uids)), int(rootOf(gids))) // its root may write them
		}
		if err != nil {
			return fmt.Errorf("write %s of the pod: %w", name, err)
		}
	}
	return nil
}

func (p *podVerbs) hostname(cfg *runtimeapi.PodSandboxConfig) string {
	if cfg.GetHostname() != "" && !hostNetwork(cfg) {
		return cfg.GetHostname()
	}
	return p.host.Hostname
}

// pauseRequest describes the process that holds the pod's namespaces.
func (p *podVerbs) pauseRequest(rec *podRecord) (*shimapi.RunPodRequest, error) {
	cfg := rec.config
	uids, gids := userMaps(cfg)
	early, _ := splitSysctls(podSysctls(cfg))
	req := shimapi.RunPodRequest{
		ID: rec.ID, Dir: p.paths.podDir(rec.ID),
		NewNet: rec.netns != "", NetNSPath: rec.netns,
		NewUTS:  rec.netns != "",
		NewIPC:  !hostIPC(cfg),
		NewPID:  sharedPID(cfg),
		UIDMaps: uids, GIDMaps: gids,
		Sysctls:     early,
		CgroupPath:  pauseCgroup(p.host, cgroupParent(p.host, rec), rec.ID),
		OOMScoreAdj: clampOOM(p.host, pauseOOMScore),
	}
	if req.NewUTS {
		req.Hostname = p.hostname(cfg)
	}
	security, err := oci.PodSecurityOf(cfg, p.host)
	if err != nil {
		return nil, asDomain(err)
	}
	req.User, req.AppArmor = &security.User, security.AppArmor
	return &req, nil
}

// pauseOOMScore is what both peers give: the last of a pod to be killed.
const pauseOOMScore = -998

// clampOOM raises a score to what the daemon may set: without CAP_SYS_RESOURCE
// nothing below its own (proc_pid_oom_score_adj(5)).
func clampOOM(h oci.Host, score int) int {
	if h.LowerOOM {
		return score
	}
	return max(score, h.OOMScoreAdj)
}
