package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/oci"
	"berth/oci/cgroup"
	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/oci/tracing"
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
	images   Images
	mounts   Mounts
	host     oci.Host
	handlers Handlers
	bootID   string
	events   *broadcaster
	calls    *inflight.Calls
	tell     teller
}

// RunPod makes a pod sandbox ready: namespaces held by a pause process, files,
// shared memory and network. On error nothing is left behind.
//
// Pods of one name are told apart as the comment in retry.go says.
func (p *podVerbs) RunPod(ctx context.Context, cfg *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	work := func(ctx context.Context) (string, error) {
		if id, err := p.madeBefore(ctx, cfg, handler); id != "" || err != nil {
			return id, err
		}
		level, settle, err := p.index.takeLevel(cfg, p.host)
		if err != nil {
			return "", err
		}
		defer settle()
		s, plan, err := p.newPod(ctx, cfg, handler, level)
		if err != nil {
			return "", err
		}
		if err := s.slot.take(ctx); err != nil {
			return "", err
		}
		defer s.slot.free()
		p.index.addPod(s)
		if err := p.acquire(ctx, s, plan); err != nil {
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
	}
	return p.calls.Do(ctx, runPodCall(cfg, handler), work)
}

// checkNode refuses a pod that can't run on this node as it is now.
func (p *podVerbs) checkNode(rec *podRecord) error {
	cfg := rec.config
	if err := oci.CheckPodProfiles(cfg.GetLinux().GetSecurityContext(), p.host); err != nil {
		return asDomain(err)
	}
	if rec.netns != "" {
		if err := p.network.Ready(); err != nil {
			return failed(ErrNotReady, "%w", err)
		}
	}
	if len(rec.uids) > 0 {
		return checkTraversable(p.paths.state)
	}
	return nil
}

// newPod checks what is asked for and gives the pod of which nothing is made yet, and
// the plan of it.
func (p *podVerbs) newPod(ctx context.Context, cfg *runtimeapi.PodSandboxConfig, handler, level string) (*Sandbox, podPlan, error) {
	enc, err := encodeConfig(cfg)
	if err != nil {
		return nil, podPlan{}, err
	}
	runtime, err := p.handlerOf(ctx, handler)
	if err != nil {
		return nil, podPlan{}, err
	}
	rec := podRecord{config: cfg, Pod: record.Pod{
		Version: record.Version, ID: newID(), Intent: record.Making,
		Config: enc, Handler: handler, Runtime: runtime, CreatedAt: time.Now().UTC(), BootID: p.bootID,
		SELinuxLevel: level,
	}}
	rec.derive(p.paths)
	plan, err := planPod(&rec, p.host, p.paths)
	if err == nil {
		err = rec.placeShim(p.host)
	}
	if err == nil {
		err = errors.Join(asDomain(oci.CheckLabels(plan.Labels)), p.checkNode(&rec))
	}
	if err != nil {
		return nil, podPlan{}, err
	}
	rec.MadeCgroup = topMissing(p.host, plan.CgroupParent)
	return newSandbox(p.paths.podFile(rec.ID, record.PodFile), rec), plan, nil
}

// acquire makes all that belongs to a pod, in the order that destroyPod releases from
// the end.
func (p *podVerbs) acquire(ctx context.Context, s *Sandbox, plan podPlan) error {
	_, end := tracing.Begin(ctx, "choose shim")
	shim, err := p.health.newShim(ctx, s.rec.get().isForeign())
	end(err)
	if err != nil {
		return err
	}
	_, end = tracing.Begin(ctx, "pod files", "pod", s.id)
	err = p.preparePod(s, shim.ID(), plan)
	end(err)
	if err != nil {
		shim.Release()
		return err
	}
	res, err := shim.RunPod(ctx, &plan.Pause)
	if isKind(err, shimapi.KindInvalid) || errors.Is(err, shims.ErrGone) {
		err = asDomain(err)
	}
	if err != nil {
		return fmt.Errorf("start the pause process: %w", err)
	}
	if s.rec.get().MadeCgroup != "" {
		dirs, _ := cgroupDirs(p.host, plan.CgroupParent) // an error: not marked, as any that can't be
		cgroup.Mark(dirs, p.paths.state)
	}
	if err := s.change(inMemory, func(rec *podRecord) { rec.PausePID, rec.PauseStart = res.PID, res.StartTime }); err != nil {
		return err
	}
	if err := p.attach(ctx, s, plan); err != nil {
		return err
	}
	if err := p.startSandbox(ctx, s, shim, plan); err != nil {
		return err
	}
	return p.tell.podMade(ctx, s, func() error {
		// Not flushed: after a crash of the machine the pod is gone either way, and the
		// network's own record, which was written before, serves to release its addresses.
		return s.change(written, func(rec *podRecord) { rec.Intent = record.Ready })
	})
}

// attach connects the pod to its network and notes the result in memory.
func (p *podVerbs) attach(ctx context.Context, s *Sandbox, plan podPlan) error {
	var network *NetworkResult
	if rec := s.rec.get(); rec.netns != "" {
		got, err := p.network.Attach(ctx, PodNetwork{PodID: s.id, NetNS: rec.netns, Config: rec.config})
		if err != nil {
			return fmt.Errorf("set up pod network: %w", err)
		}
		network = &got
		if err := writeLateSysctls(rec, plan.LateSysctls); err != nil {
			return err
		}
	}
	return s.change(inMemory, func(rec *podRecord) { rec.Network = network })
}

// preparePod makes what is on disk and in the mount table.
func (p *podVerbs) preparePod(s *Sandbox, shim string, plan podPlan) error {
	if err := os.MkdirAll(p.paths.containersDir(s.id), 0o711); err != nil {
		return fmt.Errorf("make pod directory: %w", err)
	}
	// Durable before anything is acquired: what a crash leaves is found by it.
	if err := s.change(durably, func(rec *podRecord) { rec.ShimID = shim }); err != nil {
		return err
	}
	return p.makePodFiles(s.id, plan)
}

// makePodFiles makes the shared memory and the files bound into containers.
func (p *podVerbs) makePodFiles(id string, plan podPlan) error {
	if err := os.MkdirAll(p.paths.podStateDir(id), 0o711); err != nil {
		return fmt.Errorf("make pod state directory: %w", err)
	}
	if plan.Shm != "" {
		shm := p.paths.shmPath(id)
		if err := os.Mkdir(shm, 0o711); err != nil {
			return fmt.Errorf("make shared memory directory: %w", err)
		}
		if err := p.mounts.MountShm(shm, plan.Shm); err != nil {
			return fmt.Errorf("mount shared memory: %w", err)
		}
		if err := setLabel(shm, plan.Labels.File); err != nil {
			return err
		}
	}
	return p.writePodFiles(id, plan)
}

// writePodFiles writes the files that are bound into containers.
func (p *podVerbs) writePodFiles(id string, plan podPlan) error {
	hostResolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the host's resolv.conf: %w", err)
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil {
		hosts = []byte("127.0.0.1\tlocalhost\n::1\tlocalhost\n")
	}
	for name, data := range map[string][]byte{
		"hostname":    []byte(plan.Hostname + "\n"),
		"hosts":       hosts,
		"resolv.conf": oci.ResolvConf(plan.DNS, hostResolv),
	} {
		// Not durable: after a crash of the machine the pod is gone.
		file := p.paths.podFile(id, name)
		err := os.WriteFile(file, data, 0o644)
		if err == nil && plan.Owner != nil {
			err = os.Chown(file, int(plan.Owner.UID), int(plan.Owner.GID))
		}
		if err == nil {
			err = setLabel(file, plan.Labels.File)
		}
		if err != nil {
			return fmt.Errorf("write %s of the pod: %w", name, err)
		}
	}
	return nil
}
