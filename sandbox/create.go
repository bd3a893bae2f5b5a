package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/oci"
	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/sandbox/inflight"
	"berth/sandbox/record"
)

// containerVerbs are the verbs on containers.
type containerVerbs struct {
	paths    layout
	index    *index
	teardown *teardown
	images   Images
	shims    *shims.Set
	host     oci.Host
	bootID   string
	events   *broadcaster
	calls    *inflight.Calls
	looks    *looks
}

// CreateContainer makes a container whose process waits for StartContainer. On
// error nothing is left behind. The pod's configuration that clients repeat here only
// tells calls apart: the pod is as it was made.
func (v *containerVerbs) CreateContainer(ctx context.Context, podID string, cfg *runtimeapi.ContainerConfig, podConfig *runtimeapi.PodSandboxConfig) (string, error) {
	s, err := v.index.pod(podID)
	if err != nil {
		return "", err
	}
	return v.calls.Do(ctx, createCall(s, cfg, podConfig), func(ctx context.Context) (string, error) {
		if id, err := v.madeBefore(ctx, s, cfg); id != "" || err != nil {
			return id, err
		}
		if err := s.slot.take(ctx); err != nil {
			return "", err
		}
		defer s.slot.free()
		ctx, made := s.making(ctx)
		defer made()
		c, img, err := v.newContainer(s, cfg)
		if err != nil {
			return "", err
		}
		v.index.addContainer(c)
		if err := v.acquire(ctx, c, img); err != nil {
			if derr := v.teardown.destroyContainer(context.WithoutCancel(ctx), c); derr != nil {
				klog.FromContext(ctx).Error(derr, "A container that failed to be created is not wholly gone; removal is tried again with its pod", "container", c.id, "pod", s.id)
			}
			return "", err
		}
		return c.id, nil
	})
}

// making gives the context of a container's creation. It ends when the pod is asked to
// stop, which must not wait for a creation that hangs.
func (s *Sandbox) making(ctx context.Context) (making context.Context, made func()) {
	making, cancel := context.WithCancelCause(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.giveUp = cancel
	return making, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.giveUp = nil
		cancel(nil)
	}
}

// checkContainerConfig refuses what contradicts the pod, before anything is made.
func checkContainerConfig(s *Sandbox, cfg *runtimeapi.ContainerConfig) error {
	sc := cfg.GetLinux().GetSecurityContext()
	if sc.GetPrivileged() && !s.rec.get().config.GetLinux().GetSecurityContext().GetPrivileged() {
		return fmt.Errorf("a privileged container needs a privileged pod sandbox; set privileged there too: %w", ErrInvalid)
	}
	return nil
}

// newContainer checks what is asked for and gives the container of which nothing is made
// yet, and its image.
func (v *containerVerbs) newContainer(s *Sandbox, cfg *runtimeapi.ContainerConfig) (*Container, Image, error) {
	if err := s.guard(verbCreate); err != nil {
		return nil, Image{}, err
	}
	if err := checkContainerConfig(s, cfg); err != nil {
		return nil, Image{}, err
	}
	img, err := v.images.Resolve(cfg.GetImage().GetImage())
	if err != nil {
		return nil, Image{}, err
	}
	enc, err := encodeConfig(cfg)
	if err != nil {
		return nil, Image{}, err
	}
	sig, err := oci.StopSignal(cfg, img.Config.StopSignal)
	if err != nil {
		return nil, Image{}, asDomain(err)
	}
	rec := containerRecord{config: cfg, Container: record.Container{
		Version: record.Version, ID: newID(), PodID: s.id, Intent: record.Making,
		Config: enc, ImageID: img.ID, ImageRef: img.Digest, Layers: img.Layers, StopSignal: sig,
		CreatedAt: time.Now().UTC(), BootID: v.bootID,
	}}
	if dir, path := s.rec.get().config.GetLogDirectory(), cfg.GetLogPath(); dir != "" && path != "" {
		rec.LogPath = filepath.Join(dir, path)
	}
	c := newContainer(s, v.paths.containerFile(s.id, rec.ID, record.ContainerFile), rec)
	c.publishEvent = v.events.publish
	return c, img, nil
}

// acquire makes all that belongs to a container, in the order that destroyContainer
// releases from the end.
func (v *containerVerbs) acquire(ctx context.Context, c *Container, img Image) error {
	began := time.Now()
	if err := v.makeContainerDirs(c); err != nil {
		return err
	}
	if err := v.images.Hold(c.id, img.Layers); err != nil {
		return fmt.Errorf("hold image: %w", err)
	}
	if err := v.mountRootfs(ctx, c, img); err != nil {
		return err
	}
	mounted := time.Now()
	spec, err := v.buildSpec(ctx, c, img)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode spec: %w", err)
	}
	built := time.Now()
	if err := c.pod.guard(verbCreate); err != nil {
		return err // it was stopped meanwhile
	}
	shim, err := c.pod.shimIn(v.shims)
	if err != nil {
		return err
	}
	rec := c.rec.get()
	res, err := shim.Create(ctx, &shimapi.CreateRequest{
		Pod: c.pod.id, ID: c.id, Dir: v.paths.containerDir(c.pod.id, c.id), Spec: raw,
		Systemd: v.host.SystemdCgroup, Stdin: rec.config.GetStdin(), StdinOnce: rec.config.GetStdinOnce(),
		LogRoot: c.pod.rec.get().config.GetLogDirectory(), LogPath: rec.LogPath,
	})
	if err != nil {
		return fmt.Errorf("create container: %w", asDomain(err))
	}
	c.learn(shimapi.Record{
		ID: c.id, Pod: c.pod.id, Status: shimapi.StatusCreated, PID: res.PID, StartTime: res.StartTime,
		BootID: v.bootID, CgroupPaths: res.CgroupPaths, CreatedAt: rec.CreatedAt,
	})
	// Not durable: a crash of the machine ends the process, and a writable layer without
	// a record goes with its pod.
	return c.change(written, func(rec *containerRecord) {
		rec.setSpec(raw)
		rec.Unenforced = oci.Unenforced(rec.config.GetLinux().GetResources(), v.host)
		rec.Took = []record.StageTime{stage("rootfs", began, mounted), stage("spec", mounted, built), stage("create", built, time.Now())}
		rec.Intent = record.Ready
	})
}

// stage is how long a stage of a creation took.
func stage(name string, began, ended time.Time) record.StageTime {
	return record.StageTime{Stage: name, Micros: ended.Sub(began).Microseconds()}
}

func (v *containerVerbs) makeContainerDirs(c *Container) error {
	dir := v.paths.containerDir(c.pod.id, c.id)
	if err := v.paths.makeStateDir(c.id, rootOf(c.pod.rec.get().gids)); err != nil {
		return err
	}
	// The writable layer is made by the mount, with owner and mode of the image's root.
	for _, d := range []string{dir, v.paths.rootfsPath(c.id)} {
		if err := os.Mkdir(d, 0o711); err != nil {
			return fmt.Errorf("make container directory: %w", err)
		}
	}
	return c.change(written, func(*containerRecord) {})
}

func (v *containerVerbs) mountRootfs(ctx context.Context, c *Container, img Image) error {
	pod := c.pod.rec.get()
	dir := v.paths.containerDir(c.pod.id, c.id)
	err := v.images.Mount(ctx, RootfsRequest{
		Layers: img.Layers, Target: v.paths.rootfsPath(c.id),
		Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"),
		UIDMap: pod.uids, GIDMap: pod.gids,
	})
	if err != nil {
		return fmt.Errorf("mount root filesystem: %w", err)
	}
	return nil
}

// buildSpec looks up what the spec needs from the disk and the host, then
// builds it.
func (v *containerVerbs) buildSpec(ctx context.Context, c *Container, img Image) (*specs.Spec, error) {
	rec := c.rec.get()
	rootfs := v.paths.rootfsPath(c.id)
	pod := v.ociPod(c.pod)
	target, err := v.targetPID(c, rec.config)
	if err != nil {
		return nil, err
	}
	ctr := oci.Container{ID: c.id, Config: rec.config, Rootfs: rootfs, TargetPID: target}
	if err := v.addProgram(&ctr, c.pod.rec.get().config); err != nil {
		return nil, err
	}
	if err := v.lookUp(ctx, &ctr, img); err != nil {
		return nil, asDomain(err)
	}
	volumes, err := v.mountImageVolumes(ctx, c)
	if err != nil {
		return nil, err
	}
	ctr.Mounts = inOrder(rec.config, ctr.Mounts, volumes)
	if err := v.checkIDMaps(ctx, ctr.Mounts, pod.PID); err != nil {
		return nil, asDomain(err)
	}
	podRec := c.pod.rec.get()
	d := declared{rootfs: rootfs, owner: [2]uint32{rootOf(podRec.uids), rootOf(podRec.gids)}, mounts: ctr.Mounts}
	own, err := declareVolumes(ctx, d, img.Config.Volumes, rec.config.GetLinux().GetSecurityContext().GetReadonlyRootfs())
	if err != nil {
		return nil, err
	}
	ctr.Mounts = append(ctr.Mounts, own...)
	host := v.host
	if rec.config.GetLinux().GetSecurityContext().GetPrivileged() {
		// Anew each time: devices come and go while the daemon runs.
		if host.Devices, err = oci.HostDevices(); err != nil {
			return nil, fmt.Errorf("list the host's devices: %w", err)
		}
	}
	spec, err := oci.Spec(pod, ctr, img.Config, host)
	if err != nil {
		return nil, asDomain(err)
	}
	names, err := oci.CDINames(rec.config)
	if err == nil && len(names) > 0 {
		err = oci.InjectCDI(spec, names, v.host.CDIDirs)
	}
	return spec, asDomain(err)
}

// lookUp fills in what the disk and the host know of a container's config.
func (v *containerVerbs) lookUp(ctx context.Context, ctr *oci.Container, img Image) (err error) {
	sc := ctr.Config.GetLinux().GetSecurityContext()
	if err := oci.CheckAppArmor(sc, v.host); err != nil {
		return err
	}
	if ctr.User, err = oci.ResolveUser(ctr.Rootfs, oci.UserRequest{Image: img.Config.User, Context: sc}); err != nil {
		return err
	}
	for _, mt := range hostMounts(ctr.Config) {
		found, err := lookAt(ctx, v.looks, mt.GetHostPath(), func() ([]oci.Mount, error) {
			return oci.ResolveMounts([]*runtimeapi.Mount{mt}, v.host)
		})
		if err != nil {
			return err
		}
		ctr.Mounts = append(ctr.Mounts, found...)
	}
	for _, d := range ctr.Config.GetDevices() {
		found, err := lookAt(ctx, v.looks, d.GetHostPath(), func() ([]oci.Device, error) {
			return oci.ResolveDevices([]*runtimeapi.Device{d})
		})
		if err != nil {
			return err
		}
		ctr.Devices = append(ctr.Devices, found...)
	}
	ctr.Seccomp, err = oci.LoadSeccomp(sc, v.host)
	return err
}

func (v *containerVerbs) checkIDMaps(ctx context.Context, mounts []oci.Mount, pid int) error {
	for _, mt := range mounts {
		_, err := lookAt(ctx, v.looks, mt.Source, func() (struct{}, error) {
			return struct{}{}, oci.CheckIDMap([]oci.Mount{mt}, pid)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// hostMounts are the mounts that come from the host, not from an image.
func hostMounts(cfg *runtimeapi.ContainerConfig) []*runtimeapi.Mount {
	var out []*runtimeapi.Mount
	for _, mt := range cfg.GetMounts() {
		if mt.GetImage().GetImage() == "" {
			out = append(out, mt)
		}
	}
	return out
}

// inOrder joins the mounts from the host with those of images again in the order of
// the config, since of two at one path the later one counts.
func inOrder(cfg *runtimeapi.ContainerConfig, fromHost, fromImages []oci.Mount) []oci.Mount {
	if len(fromImages) == 0 {
		return fromHost
	}
	out := make([]oci.Mount, 0, len(cfg.GetMounts()))
	for _, mt := range cfg.GetMounts() {
		from := &fromHost
		if mt.GetImage().GetImage() != "" {
			from = &fromImages
		}
		out, *from = append(out, (*from)[0]), (*from)[1:]
	}
	return out
}

// ociPod describes the pod to the spec builder.
func (v *containerVerbs) ociPod(s *Sandbox) oci.Pod {
	rec := s.rec.get()
	cfg := rec.config
	if cfg.GetLinux().GetCgroupParent() == "" {
		cfg = withCgroupParent(cfg, cgroupParent(v.host, rec))
	}
	p := oci.Pod{
		ID: s.id, Config: cfg, PID: rec.PausePID, NetNS: rec.netns,
		HostnamePath: v.paths.podFile(s.id, "hostname"),
		HostsPath:    v.paths.podFile(s.id, "hosts"),
		ResolvPath:   v.paths.podFile(s.id, "resolv.conf"),
	}
	if !hostIPC(cfg) {
		p.ShmPath = v.paths.shmPath(s.id)
	}
	return p
}

// targetPID finds the process whose PID namespace a TARGET container joins.
func (v *containerVerbs) targetPID(c *Container, cfg *runtimeapi.ContainerConfig) (int, error) {
	ns := cfg.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if ns.GetPid() != runtimeapi.NamespaceMode_TARGET {
		return 0, nil
	}
	t, err := v.index.container(ns.GetTargetId())
	if err != nil {
		return 0, fmt.Errorf("target of the PID namespace: %w", err)
	}
	if t.pod != c.pod {
		return 0, fmt.Errorf("target %s of the PID namespace is in another pod sandbox: %w", t.id, ErrInvalid)
	}
	if _, err := t.guard(verbJoin); err != nil {
		return 0, fmt.Errorf("target of the PID namespace: %w", err)
	}
	return t.pid(), nil
}
