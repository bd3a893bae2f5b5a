package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/oci"
	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/oci/tinyinit"
	"berth/oci/tracing"
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
	tell     teller
}

// CreateContainer makes a container whose process waits for StartContainer. On
// error nothing is left behind. The pod's configuration that clients repeat here only
// tells calls apart: the pod is as it was made.
func (v *containerVerbs) CreateContainer(ctx context.Context, podID string, cfg *runtimeapi.ContainerConfig, podConfig *runtimeapi.PodSandboxConfig) (string, error) {
	s, err := v.index.pod(podID)
	if err == nil && s.status.Load() == nil {
		err = failed(ErrNotFound, "pod sandbox %q is still being made", podID)
	}
	if err != nil {
		return "", err
	}
	work := func(ctx context.Context) (string, error) {
		if id, err := v.madeBefore(ctx, s, cfg); id != "" || err != nil {
			return id, err
		}
		if err := s.slot.take(ctx); err != nil {
			return "", err
		}
		defer s.slot.free()
		ctx, made := s.making(ctx)
		defer made()
		c, m, err := v.newContainer(ctx, s, cfg)
		if err != nil {
			return "", err
		}
		v.index.addContainer(c)
		if err := v.acquire(ctx, c, m); err != nil {
			if derr := v.teardown.destroyContainer(context.WithoutCancel(ctx), c); derr != nil {
				klog.FromContext(ctx).Error(derr, "A container that failed to be created is not wholly gone; removal is tried again with its pod", "container", c.id, "pod", s.id)
			}
			return "", err
		}
		return c.id, nil
	}
	return v.calls.Do(ctx, createCall(s, cfg, podConfig), work)
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

// planned is a container that can be made: its plan, what of the node it needs, and how
// long it took to look for that.
type planned struct {
	containerPlan
	found  oci.Found
	looked time.Duration
}

// newContainer plans a container and looks for what it needs of the node. It gives the
// container, of which nothing is made yet.
func (v *containerVerbs) newContainer(ctx context.Context, s *Sandbox, cfg *runtimeapi.ContainerConfig) (*Container, planned, error) {
	if err := s.guard(verbCreate); err != nil {
		return nil, planned{}, err
	}
	w, err := v.wish(s, cfg)
	if err != nil {
		return nil, planned{}, err
	}
	plan, err := planContainer(w, v.host, v.paths)
	if err != nil {
		return nil, planned{}, err
	}
	enc, err := encodeConfig(cfg)
	if err != nil {
		return nil, planned{}, err
	}
	began := time.Now()
	lctx, end := tracing.Begin(ctx, "look at node", "container", w.ID, "pod", s.id)
	found, err := v.lookAtNode(lctx, w, plan)
	end(err)
	if err == nil {
		err = oci.CheckLabels(plan.Spec.Labels())
	}
	if err != nil {
		return nil, planned{}, asDomain(err)
	}
	rec := containerRecord{config: cfg, Container: record.Container{
		Version: record.Version, ID: w.ID, PodID: s.id, Intent: record.Making,
		Config: enc, ImageID: w.Image.ID, ImageRef: w.Image.Digest, Layers: w.Image.Layers, Volumes: plan.volumes(),
		LogPath: plan.Create.LogPath, StopSignal: plan.StopSignal, Unenforced: plan.Unenforced,
		CreatedAt: time.Now().UTC(), BootID: v.bootID,
	}}
	c := newContainer(s, v.paths.containerFile(s.id, rec.ID, record.ContainerFile), rec)
	c.publishEvent, c.whenEnded = v.events.publish, v.tell.whenEnded
	return c, planned{plan, found, time.Since(began)}, nil
}

// wish looks up what a configuration names among the images and the containers.
func (v *containerVerbs) wish(s *Sandbox, cfg *runtimeapi.ContainerConfig) (containerWish, error) {
	w := containerWish{ID: newID(), Config: cfg, Pod: s.rec.get()}
	var err error
	if w.Image, err = v.images.Resolve(cfg.GetImage().GetImage()); err != nil {
		return w, err
	}
	for _, mt := range cfg.GetMounts() {
		name := mt.GetImage().GetImage()
		if name == "" {
			continue
		}
		img, err := v.images.Resolve(name)
		if err != nil {
			return w, volumeError(mt, err)
		}
		w.Volumes = append(w.Volumes, img)
	}
	w.TargetPID, err = v.targetPID(s, cfg)
	return w, err
}

// acquire makes all that belongs to a container, in the order that destroyContainer
// releases from the end.
func (v *containerVerbs) acquire(ctx context.Context, c *Container, m planned) error {
	began := time.Now()
	if err := v.makeContainerDirs(c, m.Owner); err != nil {
		return err
	}
	if err := v.images.Hold(c.id, c.rec.get().Held()); err != nil {
		return fmt.Errorf("hold image: %w", err)
	}
	step, end := tracing.Begin(ctx, "mount root filesystem")
	err := v.images.Mount(step, m.Rootfs)
	end(err)
	if err != nil {
		return fmt.Errorf("mount root filesystem: %w", err)
	}
	mounted := time.Now()
	step, end = tracing.Begin(ctx, "runtime spec")
	spec, err := v.completeSpec(step, m)
	end(err)
	if err != nil {
		return err
	}
	done, err := v.tell.inTurn(ctx, &c.told)
	if err != nil {
		return err
	}
	defer done()
	if err := v.tell.created(ctx, c, spec); err != nil {
		return err
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode spec: %w", err)
	}
	built := time.Now()
	if err := v.createInShim(ctx, c, m, raw); err != nil {
		return err
	}
	// Not flushed: a crash of the machine ends the process, and a writable layer without
	// a record goes with its pod. The exit's record, which is flushed, brings this along.
	err = c.change(written, func(rec *containerRecord) {
		rec.setSpec(raw)
		rec.Took = []record.StageTime{
			stage("rootfs", mounted.Sub(began)), stage("spec", m.looked+built.Sub(mounted)), stage("create", time.Since(built)),
		}
		rec.Intent = record.Ready
	})
	if err == nil {
		v.tell.tellOnly(ctx, c, ContainerPostCreate)
	}
	return err
}

// createInShim has the shim create the container, and notes what it says.
func (v *containerVerbs) createInShim(ctx context.Context, c *Container, m planned, spec json.RawMessage) error {
	if err := c.pod.guard(verbCreate); err != nil {
		return err // it was stopped meanwhile
	}
	shim, err := c.pod.shimIn(v.shims)
	if err != nil {
		return err
	}
	req := m.Create
	req.Spec = spec
	res, err := shim.Create(ctx, &req)
	if err != nil {
		return fmt.Errorf("create container: %w", asDomain(err))
	}
	c.learn(shimapi.Record{
		ID: c.id, Pod: c.pod.id, Status: shimapi.StatusCreated, PID: res.PID, StartTime: res.StartTime,
		BootID: v.bootID, CgroupPaths: res.CgroupPaths, CreatedAt: c.rec.get().CreatedAt,
	})
	return nil
}

// stage is how long a stage of a creation took.
func stage(name string, took time.Duration) record.StageTime {
	return record.StageTime{Stage: name, Micros: took.Microseconds()}
}

func (v *containerVerbs) makeContainerDirs(c *Container, owner fileOwner) error {
	if err := v.paths.makeStateDir(c.id, owner.GID); err != nil {
		return err
	}
	// The writable layer is made by the mount, with owner and mode of the image's root.
	for _, d := range []string{v.paths.containerDir(c.pod.id, c.id), v.paths.rootfsPath(c.id)} {
		if err := os.Mkdir(d, 0o711); err != nil {
			return fmt.Errorf("make container directory: %w", err)
		}
	}
	return c.change(making, func(*containerRecord) {})
}

// completeSpec mounts the image volumes, makes the volumes that the image declares, and
// gives the spec with what these and the image's files say. The root filesystem is
// mounted.
func (v *containerVerbs) completeSpec(ctx context.Context, m planned) (*specs.Spec, error) {
	if m.Program {
		if _, err := tinyinit.Install(v.paths.root); err != nil {
			return nil, err
		}
	}
	if err := v.relabel(ctx, m); err != nil {
		return nil, err
	}
	cfg, found := m.Spec.Container().Config, m.found
	var err error
	if found.User, err = oci.ResolveUser(m.Rootfs.Target, m.Spec.User()); err != nil {
		return nil, asDomain(err)
	}
	volumes, err := v.mountImageVolumes(ctx, m.Volumes)
	if err != nil {
		return nil, err
	}
	found.Mounts = inOrder(cfg, found.Mounts, volumes)
	d := declared{rootfs: m.Rootfs.Target, owner: m.Owner, mounts: found.Mounts}
	own, err := declareVolumes(ctx, d, m.Declared, m.ReadonlyRoot)
	if err != nil {
		return nil, err
	}
	found.Mounts = append(found.Mounts, own...)
	spec, err := m.Spec.Complete(found)
	if err == nil && len(m.CDI) > 0 {
		err = oci.InjectCDI(spec, m.CDI, v.host.CDIDirs)
	}
	if err != nil {
		return nil, asDomain(err)
	}
	return spec, nil
}

// lookAtNode finds what a container names of the node and refuses what the node lacks.
// But for the directory of a hostPath volume (see [oci.ResolveMounts]) it makes nothing.
func (v *containerVerbs) lookAtNode(ctx context.Context, w containerWish, plan containerPlan) (found oci.Found, err error) {
	sc := w.Config.GetLinux().GetSecurityContext()
	if err := oci.CheckAppArmor(sc, v.host); err != nil {
		return found, err
	}
	if found.Seccomp, err = oci.LoadSeccomp(sc, v.host); err != nil {
		return found, err
	}
	for _, mt := range hostMounts(w.Config) {
		m, err := lookAt(ctx, v.looks, mt.GetHostPath(), func() ([]oci.Mount, error) {
			return oci.ResolveMounts([]*runtimeapi.Mount{mt}, v.host)
		})
		if err != nil {
			return found, err
		}
		found.Mounts = append(found.Mounts, m...)
	}
	if err := v.checkIDMaps(ctx, found.Mounts, w.Pod.PausePID); err != nil {
		return found, err
	}
	if found.Devices, err = v.lookAtDevices(ctx, w.Config.GetDevices(), plan); err != nil {
		return found, err
	}
	if sc.GetPrivileged() && !w.Pod.noHostDevices() {
		// Anew each time: devices come and go while the daemon runs.
		if found.HostDevices, err = oci.HostDevices(); err != nil {
			return found, fmt.Errorf("list the host's devices: %w", err)
		}
	}
	return found, nil
}

// lookAtDevices finds the devices that the runtime handler gives, then those that the pod's
// annotations name, then those that the container does: the last counts where several name
// one path.
func (v *containerVerbs) lookAtDevices(ctx context.Context, own []*runtimeapi.Device, plan containerPlan) ([]oci.Device, error) {
	var out []oci.Device
	find := func(list []*runtimeapi.Device, resolve func(*runtimeapi.Device) ([]oci.Device, error)) error {
		for _, d := range list {
			devices, err := lookAt(ctx, v.looks, d.GetHostPath(), func() ([]oci.Device, error) { return resolve(d) })
			if err != nil {
				return err
			}
			out = append(out, devices...)
		}
		return nil
	}
	if err := find(plan.Given, oci.ResolveGiven); err != nil {
		return nil, fmt.Errorf("devices of the pod's runtime handler in the node's configuration: %w", err)
	}
	err := find(plan.Devices, oci.ResolveNode)
	if err == nil {
		err = find(own, func(d *runtimeapi.Device) ([]oci.Device, error) { return oci.ResolveDevices([]*runtimeapi.Device{d}) })
	}
	return out, err
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

// targetPID finds the process whose PID namespace a TARGET container joins.
func (v *containerVerbs) targetPID(s *Sandbox, cfg *runtimeapi.ContainerConfig) (int, error) {
	ns := cfg.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if ns.GetPid() != runtimeapi.NamespaceMode_TARGET {
		return 0, nil
	}
	t, err := v.index.container(ns.GetTargetId())
	if err != nil {
		return 0, fmt.Errorf("target of the PID namespace: %w", err)
	}
	if t.pod != s {
		return 0, failed(ErrInvalid, "target %s of the PID namespace is in another pod sandbox", t.id)
	}
	if _, err := t.guard(verbJoin); err != nil {
		return 0, fmt.Errorf("target of the PID namespace: %w", err)
	}
	return t.pid(), nil
}
