package oci

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pod is what a container's spec needs to know of its pod sandbox.
type Pod struct {
	ID     string
	Config *runtimeapi.PodSandboxConfig
	PID    int    // of the pause process, whose namespaces /proc/PID/ns/{ipc,uts,pid,user} are joined
	NetNS  string // path of the pinned network namespace; "" on the host network
	Level  string // SELinux level that is the pod's alone, or that it asked for; "" leaves its containers without labels
	// Allowed are the keys of annotations of the pod and its containers that the runtime may
	// see; one with a * at its end matches all that begin like it. There are none for
	// libcontainer, see [annotations].
	Allowed []string
	// NoHostDevices keeps the host's devices out of privileged containers, which may still use
	// any device with AllDevicesAllowed.
	NoHostDevices, AllDevicesAllowed bool
	// Files of the pod, bind-mounted unless the container's mounts already cover
	// the path; "" when the pod has none.
	ShmPath, HostnamePath, HostsPath, ResolvPath string
}

// Container is what the spec of a container is planned from.
type Container struct {
	ID        string
	Config    *runtimeapi.ContainerConfig
	Rootfs    string
	TargetPID int    // of the container whose PID namespace is joined (TARGET)
	Init      string // host path of package tinyinit's program, to run as PID 1; "" for no init
	Bytes     string // the same path when [NeedsBytes], else ""
}

// Found is what a container's configuration names and only a look at the disk or the
// kernel can tell.
type Found struct {
	User        User             // from [ResolveUser]
	Mounts      []Mount          // Config.Mounts from [ResolveMounts], then the image's volumes that no mount of it covers
	Devices     []Device         // from [ResolveDevices]
	HostDevices []Device         // from [HostDevices] for a privileged container, else none
	Seccomp     *seccomp.Seccomp // from [LoadSeccomp]; nil unless the profile is Localhost
}

// Mount is one mount with its source resolved to a real path on the host.
type Mount struct {
	*runtimeapi.Mount
	Source string
}

// Device is a device node as it will be in the container, and what the
// container may do with it: some of "r", "w" and "m" (mknod).
type Device struct {
	specs.LinuxDevice
	Access string
	Source string // path of the node on the host
	bind   bool   // bind-mounted, and not made, see deviceTable.makeNodes
}

// User is a user as resolved in the container's own /etc/passwd and /etc/group.
type User struct {
	UID, GID   uint32
	Additional []uint32 // GID is the first of them, see accounts.resolve
	Home       string
}

// Host is what the machine and the daemon's own privileges allow; see [DetectHost].
type Host struct {
	CgroupV2      bool
	SystemdCgroup bool            // the systemd driver is in use
	Controllers   map[string]bool // mounted (v1) or enabled at the root (v2); "hugetlb", "pids", …
	// CgroupFlags are the options of the host's cgroup2 mount. A container in the host's
	// cgroup namespace must mount cgroup2 with the same ones: the options belong to the
	// hierarchy, so that a mount without them takes them from everybody.
	CgroupFlags []string
	SwapAccount bool
	// Capabilities are those that the daemon may pass on, by their CAP_… names. A
	// container that asks for ALL gets these.
	Capabilities []string
	OOMScoreAdj  int  // the daemon's own; without LowerOOM it can set no lower one
	LowerOOM     bool // the daemon has CAP_SYS_RESOURCE
	AppArmor     bool
	// AppArmorDefault is the profile RuntimeDefault means, "" when it could not be
	// loaded; see [LoadAppArmorDefault].
	AppArmorDefault string
	SELinux         bool
	Labels          Labels // that the SELinux policy has for containers, without categories; empty where it has none
	Seccomp         bool
	RRO             bool // recursive read-only mounts (mount_setattr, Linux 5.12)
	IDMap           bool // idmapped mounts (Linux 5.12)
	UserNS          bool // user namespaces can be made
	Kernel          [2]int
	Arch            string // GOARCH
	Hostname        string
	CDIDirs         []string
	SeccompRoot     string // where a Localhost profile's relative path starts
	// CreateSources makes [ResolveMounts] create a directory for a host_path that
	// is missing; without it that is an error.
	CreateSources bool
	// AllowedDevices are the paths of the device nodes below /dev that pods may ask for by
	// annotation.
	AllowedDevices []string
	Defaults       Defaults
}

// Draft is a container's spec as [Plan] has decided it. What it lacks is put in by
// [Draft.Complete]: until then its user is root, a mount's source is what was asked for
// (a host_path or the name of an image), and the devices and the seccomp profile that
// have to be read from the host are missing.
type Draft struct {
	Spec *specs.Spec
	b    *builder
}

// Plan decides about the spec of a container and checks all that was asked of it. It is
// a pure function: the same arguments give the same draft on any machine. Errors wrap
// [ErrInvalid] or [ErrUnsupported] and say which field to change.
func Plan(p Pod, c Container, img ocispec.ImageConfig, h Host) (*Draft, error) {
	b, err := newBuilder(p, c, img, h)
	if err != nil {
		return nil, err
	}
	for _, step := range []func() error{
		b.checkUser, b.process, b.capabilities, b.namespaces, b.mounts, b.paths,
		b.resources, b.devices, b.apparmor, b.selinux, b.seccomp,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return &Draft{Spec: b.spec, b: b}, nil
}

// Complete puts what was found into the spec and returns it. It is a pure function too,
// and may be called once. Errors are those of [Plan].
func (d *Draft) Complete(f Found) (*specs.Spec, error) {
	b := d.b
	b.setUser(f.User)
	b.binds = f.Mounts
	if err := b.mounts(); err != nil {
		return nil, err
	}
	deviceTable{b.spec, b.ns.User(), b.allDevices()}.add(b.ownDevices(f))
	if err := b.localSeccomp(f.Seccomp); err != nil {
		return nil, err
	}
	return d.Spec, nil
}

// Labels are the SELinux labels of the container, see [ContainerLabels].
func (d *Draft) Labels() Labels { return Labels{d.Spec.Process.SelinuxLabel, d.Spec.Linux.MountLabel} }

// Container is what the spec was planned for.
func (d *Draft) Container() Container { return d.b.ctr }

// Pod is what the spec was planned in.
func (d *Draft) Pod() Pod { return d.b.pod }

// User is what [ResolveUser] has to find in the image's files.
func (d *Draft) User() UserRequest { return UserRequest{Image: d.b.img.User, Context: d.b.sc} }

// builder fills one spec in the steps of [Plan]. The seccomp filter comes last, because
// the default profile depends on the capabilities.
type builder struct {
	pod  Pod
	ctr  Container
	img  ocispec.ImageConfig
	host Host

	conf  *runtimeapi.ContainerConfig
	sc    *runtimeapi.LinuxContainerSecurityContext // nil when the config has none
	ns    PodNamespaces
	binds []Mount // the mounts of the config; their sources are real paths once they are found
	vars  environ
	spec  *specs.Spec
}

func newBuilder(p Pod, c Container, img ocispec.ImageConfig, h Host) (*builder, error) {
	if p.Config == nil || c.Config == nil {
		return nil, invalid("the pod's or the container's config is missing")
	}
	ns, err := NamespacesOf(p.Config)
	if err != nil {
		return nil, err
	}
	b := &builder{pod: p, ctr: c, img: img, host: h, conf: c.Config, ns: ns, binds: askedMounts(c.Config)}
	b.sc = c.Config.GetLinux().GetSecurityContext()
	if b.privileged() && !p.Config.GetLinux().GetSecurityContext().GetPrivileged() {
		return nil, invalid("security_context.privileged: a privileged container needs a privileged pod sandbox: set it there too")
	}
	cgroups, err := CgroupsPath(p.Config.GetLinux().GetCgroupParent(), c.ID, h)
	if err != nil {
		return nil, err
	}
	b.spec = &specs.Spec{
		Version:     specs.Version,
		Root:        &specs.Root{Path: c.Rootfs, Readonly: b.sc.GetReadonlyRootfs()},
		Process:     &specs.Process{},
		Linux:       &specs.Linux{CgroupsPath: cgroups},
		Annotations: annotations(p, c),
	}
	return b, nil
}

func (b *builder) privileged() bool { return b.sc.GetPrivileged() }

// allDevices tells whether the container may use every device of the host.
func (b *builder) allDevices() bool {
	return b.privileged() && (!b.pod.NoHostDevices || b.pod.AllDevicesAllowed)
}

// annotations names the container to programs that read its spec, such as CDI hooks.
// The user's own annotations are left out, because libcontainer acts on some keys
// (org.systemd.property.*, run.oci.*, org.criu.*). The CRI returns them from the records,
// and berth itself obeys a few, see the package documentation.
func annotations(p Pod, c Container) map[string]string {
	meta, image := p.Config.GetMetadata(), c.Config.GetImage()
	name := image.GetUserSpecifiedImage()
	if name == "" {
		name = image.GetImage()
	}
	out := map[string]string{
		"io.kubernetes.cri.container-type":    "container",
		"io.kubernetes.cri.container-name":    c.Config.GetMetadata().GetName(),
		"io.kubernetes.cri.image-name":        name,
		"io.kubernetes.cri.sandbox-id":        p.ID,
		"io.kubernetes.cri.sandbox-name":      meta.GetName(),
		"io.kubernetes.cri.sandbox-namespace": meta.GetNamespace(),
		"io.kubernetes.cri.sandbox-uid":       meta.GetUid(),
	}
	addAllowed(out, p.Allowed, p.Config.GetAnnotations())
	addAllowed(out, p.Allowed, c.Config.GetAnnotations())
	return out
}

// CgroupsPath is the cgroupsPath that the runtime-spec has for a container or a pause
// process: parent/ID with the cgroupfs driver, slice:berth:ID with the systemd driver.
// The kubelet writes parent as a path with both drivers; systemd wants the name of the
// last slice in it. The error wraps [ErrInvalid].
func CgroupsPath(parent, id string, h Host) (string, error) {
	if err := checkCgroupParent(parent); err != nil {
		return "", err
	}
	if !h.SystemdCgroup {
		if parent == "" {
			parent = "/berth"
		}
		return path.Join("/", parent, id), nil
	}
	slice := "system.slice"
	if parent != "" {
		slice = path.Base(path.Clean("/" + parent))
	}
	if !strings.HasSuffix(slice, ".slice") {
		return "", invalid("linux.cgroup_parent %s must end in .slice with the systemd driver", clip(parent))
	}
	return slice + ":berth:" + id, nil
}

// maxCgroupParent leaves room in PATH_MAX for the mount point, a controller and an ID: a
// cgroup whose path is too long could be made and not be removed.
const maxCgroupParent = unix.PathMax - 256

// checkCgroupParent refuses what is no path of a cgroup or name of a slice.
func checkCgroupParent(parent string) error {
	unfit := func(part string) bool { return part == ".." || len(part) > unix.NAME_MAX }
	if len(parent) > maxCgroupParent || strings.ContainsAny(parent, "\x00\n:") || slices.ContainsFunc(strings.Split(parent, "/"), unfit) {
		return invalid("linux.cgroup_parent %s must be the path of a cgroup or the name of a slice, without \"..\", ':', line breaks and NUL, of at most %d bytes and %d in each name", clip(parent), maxCgroupParent, unix.NAME_MAX)
	}
	return nil
}

// clip quotes a client's string for an error and cuts it to a readable length.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return fmt.Sprintf("%q… (%d bytes)", s[:most], len(s))
	}
	return fmt.Sprintf("%q", s)
}
