package sandbox

import (
	"path/filepath"
	"strconv"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/oci/shimapi"
	"berth/oci/tinyinit"
	"berth/sandbox/record"
)

// containerWish is what a container is planned from: what was asked for, and what the
// daemon knows of the pod and of the images.
type containerWish struct {
	ID        string
	Config    *runtimeapi.ContainerConfig
	Pod       *podRecord
	Image     Image
	Volumes   []Image // of the mounts that name an image, in their order
	TargetPID int     // of the container whose PID namespace is joined; 0 for none
}

// containerPlan is all that is decided about a container before anything is made for it.
// It is a pure function of a [containerWish] and the facts about the host;
// CreateContainer only carries it out. What may be asked of a container is checked here,
// except for what depends on the node at that moment (see lookAtNode) and on the files
// of the image (see completeSpec).
type containerPlan struct {
	Create  shimapi.CreateRequest // the request to the shim, but for the spec
	Spec    *oci.Draft            // what the spec still lacks is said there
	Rootfs  RootfsRequest
	Volumes []volumePlan
	Program bool                 // berth's own program has to be installed, see init.go
	Owner   fileOwner            // the host's user and group that the container's root is
	CDI     []string             // CDI devices, by their full names
	Devices []*runtimeapi.Device `json:",omitempty"` // that the pod's annotations ask for
	Given   []*runtimeapi.Device `json:",omitempty"` // that the pod's runtime handler gives to each container
	// Declared are the volumes that the image declares. Each becomes a directory, and a
	// mount when the root filesystem is read-only.
	Declared     map[string]struct{}
	ReadonlyRoot bool
	HostDevices  bool // all devices of the host are to be there
	StopSignal   int  // the kernel's number
	Unenforced   []string
}

// volumePlan is an image that is mounted as a volume (KEP-4639).
type volumePlan struct {
	Bind    *runtimeapi.Mount
	Image   RootfsRequest
	ImageID string
}

// planContainer decides about a container. The error wraps [ErrInvalid] or
// [ErrUnsupported] and says what to change.
func planContainer(w containerWish, h oci.Host, paths layout) (containerPlan, error) {
	cfg, dir := w.Config, paths.containerDir(w.Pod.ID, w.ID)
	plan := containerPlan{
		Rootfs: RootfsRequest{
			Layers: w.Image.Layers, Target: paths.rootfsPath(w.ID), Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"),
			UIDMap: w.Pod.uids, GIDMap: w.Pod.gids,
		},
		Owner:    fileOwner{UID: rootOf(w.Pod.uids), GID: rootOf(w.Pod.gids)},
		Declared: w.Image.Config.Volumes, ReadonlyRoot: cfg.GetLinux().GetSecurityContext().GetReadonlyRootfs(),
		HostDevices: cfg.GetLinux().GetSecurityContext().GetPrivileged() && !w.Pod.noHostDevices(),
		Unenforced:  oci.Unenforced(cfg.GetLinux().GetResources(), h),
		Create: shimapi.CreateRequest{
			Pod: w.Pod.ID, ID: w.ID, Dir: dir, Systemd: h.SystemdCgroup,
			Stdin: cfg.GetStdin(), StdinOnce: cfg.GetStdinOnce(), LogRoot: w.Pod.config.GetLogDirectory(), LogLimits: h.Defaults.Log,
		},
	}
	var err error
	if plan.Create.LogPath, err = logPath(w.Pod.config, cfg); err != nil {
		return plan, err
	}
	if n := len(plan.Declared); n > maxDeclared {
		return plan, failed(ErrInvalid, "the image declares %d volumes; at most %d work", n, maxDeclared)
	}
	if err := checkClasses(cfg.GetAnnotations()); err != nil {
		return plan, err
	}
	if plan.StopSignal, err = oci.StopSignal(cfg, w.Image.Config.StopSignal); err != nil {
		return plan, asDomain(err)
	}
	plan.Create.Scope = oci.Scope(cfg, plan.StopSignal, h)
	if plan.CDI, err = oci.CDINames(cfg); err != nil {
		return plan, asDomain(err)
	}
	if plan.Devices, err = podDevices(w.Pod.config, w.Pod.allowedDevices(h)); err != nil {
		return plan, err
	}
	if plan.Given, err = w.Pod.givenDevices(); err != nil {
		return plan, err
	}
	ctr := oci.Container{ID: w.ID, Config: cfg, Rootfs: plan.Rootfs.Target, TargetPID: w.TargetPID}
	plan.Program = useProgram(&ctr, w.Pod.config, paths)
	if plan.Spec, err = oci.Plan(ociPod(w.Pod, h, paths), ctr, w.Image.Config, h); err != nil {
		return plan, asDomain(err)
	}
	plan.Rootfs.Label = plan.Spec.Labels().File
	plan.Volumes = planVolumes(w, plan.Rootfs.Label, paths)
	return plan, nil
}

// logPath is where the container's log is, below the directory of its pod's logs; "" for
// none.
func logPath(pod *runtimeapi.PodSandboxConfig, cfg *runtimeapi.ContainerConfig) (string, error) {
	p := cfg.GetLogPath()
	if p != "" && (!isPath(p) || !filepath.IsLocal(p) || filepath.Clean(p) == ".") {
		return "", failed(ErrInvalid, "log_path is %.200q; give a file's path relative to the pod's log_directory and inside it", p)
	}
	if p == "" || pod.GetLogDirectory() == "" {
		return "", nil
	}
	return filepath.Join(pod.GetLogDirectory(), p), nil
}

// planVolumes gives each image that is a volume a place that is named after the mount's
// number in the configuration, and its files the container's label.
func planVolumes(w containerWish, label string, paths layout) []volumePlan {
	var out []volumePlan
	for i, mt := range w.Config.GetMounts() {
		if mt.GetImage().GetImage() == "" {
			continue
		}
		img := w.Volumes[len(out)]
		out = append(out, volumePlan{
			Bind: oci.ImageBind(mt), ImageID: img.ID,
			Image: RootfsRequest{
				Layers: img.Layers, Target: filepath.Join(paths.imageVolumesDir(w.ID), strconv.Itoa(i)),
				UIDMap: w.Pod.uids, GIDMap: w.Pod.gids, Label: label,
			},
		})
	}
	return out
}

// useProgram has a container use berth's own program as what it needs it for: the init
// that its pod asks for, and variables that are not UTF-8. It tells whether it does.
func useProgram(ctr *oci.Container, pod *runtimeapi.PodSandboxConfig, paths layout) bool {
	file := tinyinit.Path(paths.root)
	if pod.GetAnnotations()[InitAnnotation] == "true" {
		ctr.Init = file
	}
	if oci.NeedsBytes(ctr.Config) {
		ctr.Bytes = file
	}
	return ctr.Init+ctr.Bytes != ""
}

// ociPod describes the pod to the spec builder.
func ociPod(rec *podRecord, h oci.Host, paths layout) oci.Pod {
	cfg := rec.config
	if cfg.GetLinux().GetCgroupParent() == "" {
		cfg = withCgroupParent(cfg, cgroupParent(h, rec))
	}
	p := oci.Pod{
		ID: rec.ID, Config: cfg, PID: rec.PausePID, NetNS: rec.netns, Level: rec.SELinuxLevel,
		HostnamePath: paths.podFile(rec.ID, "hostname"),
		HostsPath:    paths.podFile(rec.ID, "hosts"),
		ResolvPath:   paths.podFile(rec.ID, "resolv.conf"),
	}
	if !hostIPC(cfg) {
		p.ShmPath = paths.shmPath(rec.ID)
	}
	if rec.Runtime != nil {
		p.Allowed = rec.Runtime.Annotations
		p.NoHostDevices, p.AllDevicesAllowed = rec.Runtime.NoHostDevices, rec.Runtime.AllDevicesAllowed
	}
	return p
}

// volumes are the image volumes as they are recorded.
func (p containerPlan) volumes() []record.Volume {
	var out []record.Volume
	for _, v := range p.Volumes {
		out = append(out, record.Volume{Target: v.Image.Target, Layers: v.Image.Layers, ImageID: v.ImageID})
	}
	return out
}
