package oci

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Paths hidden from, or read-only in, a container whose config says nothing:
// they tell of or change the whole node, as procfs and sysfs are not namespaced.
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

// paths applies the lists as given: an empty list of a security context is the
// kubelet's way to say procMount Unmasked.
func (b *builder) paths() error {
	l := b.spec.Linux
	switch {
	case b.privileged():
	case b.sc == nil:
		l.MaskedPaths, l.ReadonlyPaths = defaultMaskedPaths, defaultReadonlyPaths
	default:
		l.MaskedPaths, l.ReadonlyPaths = b.sc.GetMaskedPaths(), b.sc.GetReadonlyPaths()
	}
	if !b.privileged() && !b.host.CgroupV2 && !b.hides(cgroupRoot) {
		// The hierarchies of v1 are mounted read-only on a tmpfs that is not.
		l.ReadonlyPaths = append(slices.Clone(l.ReadonlyPaths), cgroupRoot)
	}
	return nil
}

// mounts puts the file systems every container has first, without those its
// config replaces, then everything else, parents before what is below them.
func (b *builder) mounts() error {
	var list []specs.Mount
	for _, m := range b.defaultMounts() {
		if !b.hides(m.Destination) {
			list = append(list, m)
		}
	}
	binds, err := b.configMounts()
	if err != nil {
		return err
	}
	binds = append(binds, b.podFiles()...)
	slices.SortStableFunc(binds, func(x, y specs.Mount) int {
		return cmp.Compare(strings.Count(x.Destination, "/"), strings.Count(y.Destination, "/"))
	})
	b.spec.Mounts = append(list, binds...)
	return nil
}

// covers tells whether the config or the image mounts something at exactly dest.
func (b *builder) covers(dest string) bool {
	return slices.ContainsFunc(b.ctr.Mounts, func(m Mount) bool { return destination(m.Mount) == dest })
}

// hides tells whether a mount of the config or the image is at dest or above it.
func (b *builder) hides(dest string) bool {
	return slices.ContainsFunc(b.ctr.Mounts, func(m Mount) bool {
		above := destination(m.Mount)
		return dest == above || strings.HasPrefix(dest, above+"/")
	})
}

// destination is a mount's absolute path in the container; one that "../" leads
// above the root ends at the root.
func destination(m *runtimeapi.Mount) string { return path.Join("/", m.GetContainerPath()) }

func (b *builder) defaultMounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		b.shm(),
		b.sysfs(),
		b.cgroupMount(),
	}
}

func (b *builder) shm() specs.Mount {
	m := specs.Mount{Destination: "/dev/shm", Type: "bind", Source: b.pod.ShmPath, Options: []string{"rbind", "rprivate", "nosuid", "nodev", "noexec"}}
	switch {
	case m.Source != "":
	case b.ns.IPC:
		m.Type, m.Source, m.Options = "tmpfs", "shm", []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}
	default:
		m.Source = "/dev/shm"
	}
	return m
}

// sysfs shows the network namespace's devices, so its owner must be able to
// mount it: a pod with a user namespace on the host's network is not, and gets
// the host's tree, read-only all the way down.
func (b *builder) sysfs() specs.Mount {
	if b.ns.User() && !b.ns.Net {
		return specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "rprivate", "nosuid", "noexec", "nodev", "ro", "rro"}}
	}
	return specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", b.roUnlessPrivileged()}}
}

func (b *builder) cgroupMount() specs.Mount {
	options := []string{"nosuid", "noexec", "nodev", "relatime", b.roUnlessPrivileged()}
	if b.host.CgroupV2 {
		options = append(options, b.host.CgroupFlags...)
	}
	return specs.Mount{Destination: cgroupRoot, Type: "cgroup", Source: "cgroup", Options: options}
}

func (b *builder) roUnlessPrivileged() string {
	if b.privileged() {
		return "rw"
	}
	return "ro"
}

// podFiles are the pod's own files, and berth's program, where no mount of the config
// is at the same path.
func (b *builder) podFiles() []specs.Mount {
	access := "rw"
	if b.sc.GetReadonlyRootfs() {
		access = "ro"
	}
	var list []specs.Mount
	add := func(dest, source string, options ...string) {
		if source != "" && !b.covers(dest) {
			list = append(list, specs.Mount{Destination: dest, Type: "bind", Source: source, Options: append([]string{"rbind", "rprivate"}, options...)})
		}
	}
	add("/etc/hostname", b.pod.HostnamePath, access)
	add("/etc/hosts", b.pod.HostsPath, access)
	add("/etc/resolv.conf", b.pod.ResolvPath, access)
	if init, _ := b.initPath(); init != "" || b.ctr.Bytes != "" {
		add(b.programPath(), cmp.Or(b.ctr.Bytes, b.ctr.Init), "ro", "nosuid", "nodev")
	}
	return list
}

// configMounts leaves out a mount that a later one covers: pods say /d and /d/, or
// have a volume where the kubelet puts the file of the termination message. Both
// can't be made in turn, as a file does not go over a directory.
func (b *builder) configMounts() ([]specs.Mount, error) {
	list := make([]specs.Mount, 0, len(b.ctr.Mounts))
	last := map[string]int{}
	for i, m := range b.ctr.Mounts {
		last[destination(m.Mount)] = i
	}
	for i, m := range b.ctr.Mounts {
		dest := destination(m.Mount)
		if err := CheckMount(m.Mount, b.host); err != nil && m.Fs == "" {
			return nil, err
		}
		if m.Source == "" {
			return nil, fmt.Errorf("%w: mount of %s has no source", ErrInvalid, clip(dest))
		}
		if last[dest] == i {
			list = append(list, b.mount(m))
		}
	}
	return list, nil
}

func (b *builder) mount(m Mount) specs.Mount {
	out := specs.Mount{Destination: destination(m.Mount), Type: m.Fs, Source: m.Source}
	if m.Fs != "" {
		out.Options = m.GetMountOptions()
		return out
	}
	out.Type = "bind"
	out.Options = append([]string{"rbind", propagationOption(m.GetPropagation())}, m.GetMountOptions()...)
	switch {
	case m.GetRecursiveReadOnly():
		out.Options = append(out.Options, "ro", "rro")
	case m.GetReadonly():
		out.Options = append(out.Options, "ro")
	default:
		out.Options = append(out.Options, "rw")
	}
	if len(m.GetUidMappings()) > 0 {
		out.UIDMappings, out.GIDMappings = idMappings(m.GetUidMappings()), idMappings(m.GetGidMappings())
	}
	b.spread(m.GetPropagation())
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

// spread opens the root as far as one mount needs: events of a mount reach
// nobody when the root above it was made private before the bind.
func (b *builder) spread(p runtimeapi.MountPropagation) {
	l := b.spec.Linux
	switch p {
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		l.RootfsPropagation = "rshared"
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		if l.RootfsPropagation == "" {
			l.RootfsPropagation = "rslave"
		}
	}
}

// CheckMount tells what is wrong with a mount in itself, wrapping [ErrInvalid] or
// [ErrUnsupported]. [Spec] and [ResolveMounts] both do it.
func CheckMount(m *runtimeapi.Mount, h Host) error {
	for _, check := range []func(*runtimeapi.Mount, Host) string{checkPaths, checkReadonly, checkOptions} {
		if what := check(m, h); what != "" {
			return fmt.Errorf("%w: mount of %s: %s", ErrInvalid, clip(m.GetContainerPath()), what)
		}
	}
	if what := lacking(m, h); what != "" {
		return fmt.Errorf("%w: mount of %s: %s", ErrUnsupported, clip(m.GetContainerPath()), what)
	}
	return nil
}

func checkPaths(m *runtimeapi.Mount, _ Host) string {
	switch image := m.GetImage().GetImage(); {
	case m == nil || m.GetContainerPath() == "" || destination(m) == "/":
		return "container_path must name a path below /"
	case strings.Contains(m.GetContainerPath()+m.GetHostPath(), "\x00"):
		return "a path has a NUL byte"
	case len(m.GetContainerPath()) >= unix.PathMax:
		return fmt.Sprintf("container_path is longer than %d bytes", unix.PathMax-1)
	case image != "" && m.GetHostPath() != "":
		return "give host_path or image, not both"
	case image == "" && m.GetImageSubPath() != "":
		return "image_sub_path needs image"
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
	case m.GetSelinuxRelabel() && h.SELinux:
		return "selinux_relabel is not done: label the volume beforehand"
	}
	return ""
}
