package oci

import (
	"cmp"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// These paths are hidden from a container, or read-only in it, if its config has no
// security context. Through them a process could read or change the state of the whole
// node, because much of procfs and sysfs belongs to no namespace.
var (
	defaultMaskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
		"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
		"/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	defaultReadonlyPaths = []string{
		"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
	}
)

// paths applies the lists of the security context as they are, also empty ones: by an
// empty list the kubelet asks for procMount Unmasked.
func (b *builder) paths() error {
	l := b.spec.Linux
	switch {
	case b.privileged():
	case b.sc == nil:
		l.MaskedPaths, l.ReadonlyPaths = defaultMaskedPaths, defaultReadonlyPaths
	default:
		l.MaskedPaths, l.ReadonlyPaths = b.sc.GetMaskedPaths(), b.sc.GetReadonlyPaths()
	}
	if !b.privileged() && !b.host.CgroupV2 && !hides(b.binds, cgroupRoot) {
		// On cgroup v1 each hierarchy is mounted read-only, but on a tmpfs that is writable.
		l.ReadonlyPaths = append(slices.Clone(l.ReadonlyPaths), cgroupRoot)
	}
	return nil
}

// mounts makes the mounts of [builder.binds] and those that every container has. It runs
// in [Plan] with the mounts that were asked for, and again in [Draft.Complete] with their
// real sources and with the volumes that the image declares.
func (b *builder) mounts() error {
	t := mountTable{
		pod: b.pod, ns: b.ns, host: b.host, binds: b.binds,
		privileged: b.privileged(), readonlyRoot: b.sc.GetReadonlyRootfs(),
	}
	if init, _ := b.initPath(); init != "" || b.ctr.Bytes != "" {
		t.program, t.programAt = cmp.Or(b.ctr.Bytes, b.ctr.Init), b.programPath()
	}
	list, err := t.list()
	b.spec.Mounts, b.spec.Linux.RootfsPropagation = list, rootPropagation(b.binds)
	return err
}

// mountTable makes the mounts of one container.
type mountTable struct {
	pod          Pod
	ns           PodNamespaces
	host         Host
	binds        []Mount
	privileged   bool
	readonlyRoot bool
	// program is berth's own program, which the container has at programAt; "" for none.
	program, programAt string
}

// list begins with the file systems that every container has, without those that the
// config replaces. The other mounts follow, a parent directory before what is below it.
func (t mountTable) list() ([]specs.Mount, error) {
	var list []specs.Mount
	for _, m := range t.defaults() {
		if !hides(t.binds, m.Destination) {
			list = append(list, m)
		}
	}
	binds, err := t.configured()
	if err != nil {
		return nil, err
	}
	binds = append(binds, t.files()...)
	slices.SortStableFunc(binds, func(x, y specs.Mount) int {
		return cmp.Compare(strings.Count(x.Destination, "/"), strings.Count(y.Destination, "/"))
	})
	return append(list, binds...), nil
}

// covers tells whether one of the mounts is at exactly dest.
func covers(mounts []Mount, dest string) bool {
	return slices.ContainsFunc(mounts, func(m Mount) bool { return destination(m.Mount) == dest })
}

// hides tells whether one of the mounts is at dest or above it.
func hides(mounts []Mount, dest string) bool {
	return slices.ContainsFunc(mounts, func(m Mount) bool {
		above := destination(m.Mount)
		return dest == above || strings.HasPrefix(dest, above+"/")
	})
}

// destination is a mount's absolute path in the container. As for the kernel, "../" in
// the root leads to the root.
func destination(m *runtimeapi.Mount) string { return path.Join("/", m.GetContainerPath()) }

func (t mountTable) defaults() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		t.shm(),
		t.sysfs(),
		t.cgroup(),
	}
}

func (t mountTable) shm() specs.Mount {
	m := specs.Mount{Destination: "/dev/shm", Type: "bind", Source: t.pod.ShmPath, Options: []string{"rbind", "rprivate", "nosuid", "nodev", "noexec"}}
	switch {
	case m.Source != "":
	case t.ns.IPC:
		m.Type, m.Source, m.Options = "tmpfs", "shm", []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}
	default:
		m.Source = "/dev/shm"
	}
	return m
}

// sysfs shows the devices of a network namespace, so that only the user namespace which
// owns the network namespace may mount it. A pod that has a user namespace and uses the
// host's network may not. It gets a bind of the host's /sys, recursively read-only.
func (t mountTable) sysfs() specs.Mount {
	if t.ns.User() && !t.ns.Net {
		return specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "rprivate", "nosuid", "noexec", "nodev", "ro", "rro"}}
	}
	return specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", accessOf(!t.privileged)}}
}

func (t mountTable) cgroup() specs.Mount {
	options := []string{"nosuid", "noexec", "nodev", "relatime", accessOf(!t.privileged)}
	if t.host.CgroupV2 {
		options = append(options, t.host.CgroupFlags...)
	}
	return specs.Mount{Destination: cgroupRoot, Type: "cgroup", Source: "cgroup", Options: options}
}

// accessOf is the mount option of a mount that is, or is not, read-only.
func accessOf(readonly bool) string {
	if readonly {
		return "ro"
	}
	return "rw"
}

// files are the pod's own files, and berth's program, where no mount of the config
// is at the same path.
func (t mountTable) files() []specs.Mount {
	access := accessOf(t.readonlyRoot)
	var list []specs.Mount
	add := func(dest, source string, options ...string) {
		if source != "" && !covers(t.binds, dest) {
			list = append(list, specs.Mount{Destination: dest, Type: "bind", Source: source, Options: append([]string{"rbind", "rprivate"}, options...)})
		}
	}
	add("/etc/hostname", t.pod.HostnamePath, access)
	add("/etc/hosts", t.pod.HostsPath, access)
	add("/etc/resolv.conf", t.pod.ResolvPath, access)
	add(t.programAt, t.program, "ro", "nosuid", "nodev")
	return list
}

// configured leaves out a mount that a later one covers. That occurs: pods name both /d
// and /d/, or have a volume where the kubelet mounts the file of the termination message.
// The two can't be mounted one over the other, since a file can't be mounted on a
// directory.
func (t mountTable) configured() ([]specs.Mount, error) {
	list := make([]specs.Mount, 0, len(t.binds))
	last := map[string]int{}
	for i, m := range t.binds {
		last[destination(m.Mount)] = i
	}
	for i, m := range t.binds {
		dest := destination(m.Mount)
		if err := CheckMount(m.Mount, t.host); err != nil {
			return nil, err
		}
		if last[dest] == i {
			list = append(list, specMount(m))
		}
	}
	return list, nil
}

// askedMounts are the mounts of a config before a look at the host, with what is asked
// for in place of a source.
func askedMounts(c *runtimeapi.ContainerConfig) []Mount {
	var out []Mount
	for _, m := range c.GetMounts() {
		if name := m.GetImage().GetImage(); name != "" {
			out = append(out, Mount{Mount: ImageBind(m), Source: name})
		} else {
			out = append(out, Mount{Mount: m, Source: m.GetHostPath()})
		}
	}
	return out
}

// ImageBind is the bind of a mounted image into a container. It is read-only whether
// that was asked for or not, since nobody writes to an image, and it has no ID maps: the
// image's layers are mounted with those of the pod.
func ImageBind(m *runtimeapi.Mount) *runtimeapi.Mount {
	bind := proto.Clone(m).(*runtimeapi.Mount)
	bind.Readonly, bind.UidMappings, bind.GidMappings = true, nil, nil
	return bind
}

func specMount(m Mount) specs.Mount {
	out := specs.Mount{Destination: destination(m.Mount), Type: "bind", Source: m.Source}
	out.Options = append([]string{"rbind", propagationOption(m.GetPropagation())}, m.GetMountOptions()...)
	if m.GetRecursiveReadOnly() {
		out.Options = append(out.Options, "ro", "rro")
	} else {
		out.Options = append(out.Options, accessOf(m.GetReadonly()))
	}
	if len(m.GetUidMappings()) > 0 {
		out.UIDMappings, out.GIDMappings = idMappings(m.GetUidMappings()), idMappings(m.GetGidMappings())
	}
	return out
}

func propagationOption(p runtimeapi.MountPropagation) string {
	switch p {
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		return "rslave"
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		return "rshared"
	}
	return "rprivate"
}

// rootPropagation is the propagation of the root file system that the mounts need. If the
// root were private when a bind is made below it, no mount event would pass the bind.
func rootPropagation(mounts []Mount) string {
	widest := ""
	for _, m := range mounts {
		switch m.GetPropagation() {
		case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
			return "rshared"
		case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
			widest = "rslave"
		}
	}
	return widest
}

// CheckMount refuses a mount that can't be made whatever is on the node. [Plan],
// [ResolveMounts] and [Draft.Complete] call it. It sees one mount alone; a rule about
// several mounts, or about another part of the configuration, belongs to builder.mounts. The error wraps [ErrInvalid] or [ErrUnsupported].
func CheckMount(m *runtimeapi.Mount, h Host) error {
	for _, check := range []func(*runtimeapi.Mount, Host) string{checkPaths, checkSource, checkReadonly, checkOptions} {
		if what := check(m, h); what != "" {
			return invalid("mount of %s: %s", clip(m.GetContainerPath()), what)
		}
	}
	if what := lacking(m, h); what != "" {
		return unsupported("mount of %s: %s", clip(m.GetContainerPath()), what)
	}
	return nil
}

func checkPaths(m *runtimeapi.Mount, _ Host) string {
	to, from := m.GetContainerPath(), m.GetHostPath()
	switch {
	case to == "" || destination(m) == "/":
		return "container_path must name a path below /"
	case strings.Contains(to+from, "\x00"):
		return "a path has a NUL byte"
	case len(to) >= unix.PathMax || len(from) >= unix.PathMax:
		return fmt.Sprintf("container_path or host_path is longer than %d bytes", unix.PathMax-1)
	case !path.IsAbs(to) || from != "" && !path.IsAbs(from):
		return fmt.Sprintf("container_path and host_path %s must be absolute paths", clip(from))
	}
	return ""
}

func checkSource(m *runtimeapi.Mount, _ Host) string {
	switch image, sub := m.GetImage().GetImage(), m.GetImageSubPath(); {
	case image != "" && m.GetHostPath() != "":
		return "give host_path or image, not both"
	case image == "" && m.GetHostPath() == "":
		return "it has no source: give host_path or image"
	case image == "" && sub != "":
		return "image_sub_path needs image"
	case sub != "" && (len(sub) >= unix.PathMax || strings.Contains(sub, "\x00") || !filepath.IsLocal(sub)):
		return fmt.Sprintf("image_sub_path %s must be a relative path without \"..\" that stays in the image", clip(sub))
	}
	return ""
}

func checkReadonly(m *runtimeapi.Mount, _ Host) string {
	switch {
	case m.GetImage().GetImage() != "" && !m.GetReadonly():
		return "an image mount must be readonly"
	case m.GetRecursiveReadOnly() && !m.GetReadonly():
		return "recursive_read_only needs readonly"
	case m.GetRecursiveReadOnly() && m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		return "recursive_read_only needs propagation PRIVATE"
	}
	return ""
}

func checkOptions(m *runtimeapi.Mount, _ Host) string {
	if _, ok := runtimeapi.MountPropagation_name[int32(m.GetPropagation())]; !ok {
		return fmt.Sprintf("propagation %d is unknown: give PRIVATE, HOST_TO_CONTAINER or BIDIRECTIONAL", m.GetPropagation())
	}
	if (len(m.GetUidMappings()) > 0) != (len(m.GetGidMappings()) > 0) {
		return "give both uidMappings and gidMappings or none"
	}
	for _, o := range m.GetMountOptions() {
		if o != "noexec" && o != "nosuid" && o != "nodev" {
			return fmt.Sprintf("mount_options: %s is not one of noexec, nosuid, nodev", clip(o))
		}
	}
	return ""
}

func lacking(m *runtimeapi.Mount, h Host) string {
	switch {
	case m.GetRecursiveReadOnly() && !h.RRO:
		return "recursive_read_only needs Linux 5.12"
	case len(m.GetUidMappings()) > 0 && !h.IDMap:
		return "uidMappings need idmapped mounts (Linux 5.12)"
	}
	return ""
}
