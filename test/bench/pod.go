package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// workloadMark is an argument no other process has: it tells a pod's workload
// from what the runtime adds to it.
const workloadMark = "86461"

// callTimeout bounds each CRI call; a runtime that hangs is an error, not a figure.
const callTimeout = 2 * time.Minute

// pod is a running pod with its one container.
type pod struct {
	id, container, cgroup string
	config                *runtimeapi.PodSandboxConfig
}

// log is the path of its container's log.
func (p *pod) log() string { return filepath.Join(p.config.LogDirectory, "sleep/0.log") }

// upTimes are the parts of bringing a pod up.
type upTimes struct{ run, create, start time.Duration }

func (t upTimes) total() time.Duration { return t.run + t.create + t.start }

// downTimes are the parts of taking a pod away.
type downTimes struct{ stopContainer, removeContainer, stopPod, removePod time.Duration }

func (t downTimes) total() time.Duration {
	return t.stopContainer + t.removeContainer + t.stopPod + t.removePod
}

var podCount atomic.Int64

// sandboxConfig asks for what the kubelet asks for with a plain pod.
func (r *runtimeUnderTest) sandboxConfig() (*runtimeapi.PodSandboxConfig, error) {
	name := fmt.Sprintf("pod%d", podCount.Add(1))
	cgroup := filepath.Join("/", r.cgroup, name)
	logs := filepath.Join(r.dir, "logs", name)
	if err := errors.Join(makeCgroup(cgroup), os.MkdirAll(logs, 0o755)); err != nil {
		return nil, err
	}
	options := namespaces()
	if r.hostNetwork {
		options.Network = runtimeapi.NamespaceMode_NODE
	}
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "bench"},
		Hostname:     name,
		LogDirectory: logs,
		DnsConfig:    &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"bench.svc.cluster.local"}},
		Labels:       map[string]string{"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "bench"},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: cgroup,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: options,
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			},
		},
	}
	if r.hostNetwork {
		config.Hostname = "" // it is the node's
	}
	return config, nil
}

func namespaces() *runtimeapi.NamespaceOption {
	return &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
}

// containerConfig is a Burstable container with the masked paths, limits and
// profile the kubelet gives.
func containerConfig(image string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "sleep"},
		Image:    &runtimeapi.ImageSpec{Image: image},
		Command:  []string{"/bin/sleep", workloadMark},
		LogPath:  "sleep/0.log",
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{
				CpuPeriod: 100000, CpuShares: 102, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 999,
			},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: namespaces(),
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined},
				MaskedPaths: []string{
					"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
					"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
				},
				ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			},
		},
	}
}

// timed runs one call and gives how long it took.
func timed(call func() error) (time.Duration, error) {
	begin := time.Now()
	err := call()
	return time.Since(begin), err
}

// up brings one pod up. On an error what was made stays; removeAll finds it.
func (r *runtimeUnderTest) up(ctx context.Context, container *runtimeapi.ContainerConfig) (*pod, upTimes, error) {
	p, t, err := r.created(ctx, container)
	if err != nil {
		return nil, t, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	t.start, err = timed(func() error { return r.cri.StartContainer(ctx, p.container) })
	return p, t, err
}

// created makes a pod and its container, and does not start that.
func (r *runtimeUnderTest) created(ctx context.Context, container *runtimeapi.ContainerConfig) (*pod, upTimes, error) {
	var t upTimes
	config, err := r.sandboxConfig()
	if err != nil {
		return nil, t, err
	}
	if err := os.MkdirAll(filepath.Join(config.LogDirectory, "sleep"), 0o755); err != nil {
		return nil, t, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	p := &pod{config: config, cgroup: config.Linux.CgroupParent}
	t.run, err = timed(func() (err error) { p.id, err = r.cri.RunPod(ctx, config); return err })
	if err != nil {
		return nil, t, err
	}
	request := &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: container, SandboxConfig: config}
	container.Linux.SecurityContext.NamespaceOptions.Network = config.Linux.SecurityContext.NamespaceOptions.Network
	t.create, err = timed(func() (err error) { p.container, err = r.cri.CreateContainer(ctx, request); return err })
	return p, t, err
}

// down takes one pod away: kill at once, remove, as when a pod is deleted with
// no grace. Its cgroup goes off the clock.
func (r *runtimeUnderTest) down(ctx context.Context, p *pod) (downTimes, error) {
	var t downTimes
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	steps := []struct {
		spent *time.Duration
		call  func() error
	}{
		{&t.stopContainer, func() error { return r.cri.StopContainer(ctx, p.container, 0) }},
		{&t.removeContainer, func() error { return r.cri.RemoveContainer(ctx, p.container) }},
		{&t.stopPod, func() error { return r.cri.StopPod(ctx, p.id) }},
		{&t.removePod, func() error { return r.cri.RemovePod(ctx, p.id) }},
	}
	for _, s := range steps {
		var err error
		if *s.spent, err = timed(s.call); err != nil {
			return t, err
		}
	}
	return t, errors.Join(removeCgroups(p.cgroup), os.RemoveAll(p.config.LogDirectory))
}

// removeAll stops and removes every pod the runtime knows.
func (r *runtimeUnderTest) removeAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := r.cri.RemovePods(ctx, nil); err != nil {
		return fmt.Errorf("%s: remove all pods: %w", r.name, err)
	}
	return nil
}

// emptyOut is removeAll, again when that failed: after an interrupt a call that
// its client gave up may still be at work, and refuse to be overtaken.
func (r *runtimeUnderTest) emptyOut(ctx context.Context) error {
	const attempts = 4
	for i := 1; ; i++ {
		err := r.removeAll(ctx)
		if err == nil || i == attempts {
			return err
		}
		if err := pauseFor(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

// exec runs `true` in the container and fails when it does.
func (r *runtimeUnderTest) exec(ctx context.Context, p *pod) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := r.cri.Exec(ctx, p.container, "/bin/true")
	return err
}

// pull gets an image.
func (r *runtimeUnderTest) pull(ctx context.Context, image string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := r.cri.Pull(ctx, image)
	return err
}

// remove drops an image and what only it used.
func (r *runtimeUnderTest) remove(ctx context.Context, image string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return r.cri.RemoveImage(ctx, image)
}
