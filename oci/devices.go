package oci

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

const anyAccess = "rwm"

// devices denies every device, or allows a privileged container all of them. The
// devices that are found come later; libcontainer adds the few that every container has
// (null, zero, full, random, urandom, tty, ptmx, pts).
func (b *builder) devices() error {
	for _, d := range b.conf.GetDevices() {
		if err := CheckDevice(d); err != nil {
			return err
		}
	}
	b.spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: b.allDevices(), Access: anyAccess}}
	return nil
}

// deviceTable puts devices that were found into a spec.
type deviceTable struct {
	spec             *specs.Spec
	userNS, allowAll bool
}

// add allows the devices that were asked for and makes their nodes, and in a privileged
// container those of the host below them.
func (t deviceTable) add(f Found) {
	if t.allowAll {
		t.makeNodes(f.HostDevices)
	} else {
		r := t.spec.Linux.Resources
		for _, d := range f.Devices {
			r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{
				Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: d.Access,
			})
		}
	}
	t.makeNodes(f.Devices)
}

// makeNodes adds device nodes; of two at one path the last one counts. In a user
// namespace no node can be made. There libcontainer binds the host's node of the same
// path instead, so that a node with another path on the host is a bind mount here. It does
// the same wherever mknod(2) is refused, in a volume for example. A tenant who chooses the
// path would choose the file of the host by it, so what a tenant asks for is always a bind
// mount of the device that was allowed.
func (t deviceTable) makeNodes(list []Device) {
	l := t.spec.Linux
	for _, d := range list {
		if d.bind || t.userNS && d.Source != d.Path {
			t.spec.Mounts = append(t.spec.Mounts, specs.Mount{
				Destination: d.Path, Type: "bind", Source: d.Source, Options: []string{"bind", "rprivate", "nosuid", "noexec"},
			})
			continue
		}
		l.Devices = slices.DeleteFunc(l.Devices, func(x specs.LinuxDevice) bool { return x.Path == d.Path })
		l.Devices = append(l.Devices, d.LinuxDevice)
	}
}

// ownDevices gives what a container asked for to its user, see [Defaults.OwnDevices]. What a
// device plugin or a user does not name stays as it is on the host, and in a user namespace
// the nodes are the host's own.
func (b *builder) ownDevices(f Found) Found {
	if !b.host.Defaults.OwnDevices || b.ns.User() {
		return f
	}
	f.Devices = slices.Clone(f.Devices)
	for i := range f.Devices {
		if user := b.sc.GetRunAsUser(); user != nil {
			f.Devices[i].UID = ptrTo(uint32(user.GetValue()))
		}
		if group := b.sc.GetRunAsGroup(); group != nil {
			f.Devices[i].GID = ptrTo(uint32(group.GetValue()))
		}
	}
	return f
}

func ptrTo[T any](v T) *T { return &v }

// CheckDevice tells what is wrong with a device in itself, wrapping [ErrInvalid]. [Plan]
// and [ResolveDevices] both do it.
func CheckDevice(d *runtimeapi.Device) error {
	host, dest, access := d.GetHostPath(), deviceDestination(d), d.GetPermissions()
	switch {
	case host == "":
		return invalid("devices: a device has no host_path: say which device of the host it is")
	case !filepath.IsAbs(host) || !path.IsAbs(dest):
		return invalid("devices: host_path %s and container_path %s must be absolute", clip(host), clip(dest))
	case strings.Contains(host+dest, "\x00") || len(host) >= unix.PathMax || len(dest) >= unix.PathMax:
		return invalid("devices: host_path %s and container_path %s must have no NUL byte and at most %d bytes", clip(host), clip(dest), unix.PathMax-1)
	case strings.Trim(access, anyAccess) != "" || len(access) > len(anyAccess):
		return invalid("devices: permissions %s of %s: give some of r, w and m", clip(access), clip(host))
	}
	return nil
}

// deviceDestination is where a device is in the container.
func deviceDestination(d *runtimeapi.Device) string {
	return cmp.Or(d.GetContainerPath(), d.GetHostPath())
}

// ResolveDevices reads the nodes a container asks for. A directory stands for
// all devices below it, a symbolic link for what it leads to. The error wraps
// [ErrInvalid] when there is no device at a path.
func ResolveDevices(devices []*runtimeapi.Device) ([]Device, error) {
	var out []Device
	for _, d := range devices {
		if err := CheckDevice(d); err != nil {
			return nil, err
		}
		found, err := resolveDevice(d, cmp.Or(d.GetPermissions(), anyAccess))
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

func resolveDevice(d *runtimeapi.Device, access string) ([]Device, error) {
	host, dest := d.GetHostPath(), deviceDestination(d)
	source, err := filepath.EvalSymlinks(host)
	if err != nil {
		return nil, invalid("devices: host_path %s: %w", clip(host), err)
	}
	info, err := os.Lstat(source) // no link any more, unless somebody puts one there
	if err != nil {
		return nil, invalid("devices: host_path: %w", err)
	}
	if info.IsDir() {
		return devicesBelow(source, path.Clean(dest), access)
	}
	dev, ok := deviceOf(info, source, path.Clean(dest), access)
	if !ok {
		return nil, invalid("devices: host_path %s is neither a device nor a directory of devices", clip(host))
	}
	return []Device{dev}, nil
}

// ResolveNode is [ResolveDevices] for one device that a tenant asks for: a node, of which a
// symbolic link may tell where below /dev it is, but no directory.
func ResolveNode(d *runtimeapi.Device) ([]Device, error) {
	found, err := resolveOne(d)
	if err == nil {
		found[0].bind = true
	}
	return found, err
}

// ResolveGiven is [ResolveNode] for a device that the operator gives to containers. The
// node is made, as runtimes with a kernel of their own need it, which can't see the host's;
// at another path than on the host it is a bind mount (see [deviceTable.makeNodes]).
func ResolveGiven(d *runtimeapi.Device) ([]Device, error) {
	found, err := resolveOne(d)
	if err == nil {
		found[0].bind = found[0].Path != found[0].Source
	}
	return found, err
}

// resolveOne finds one node below /dev.
func resolveOne(d *runtimeapi.Device) ([]Device, error) {
	found, err := ResolveDevices([]*runtimeapi.Device{d})
	if err != nil {
		return nil, err
	}
	if len(found) != 1 || found[0].Path != path.Clean(deviceDestination(d)) || !strings.HasPrefix(found[0].Source, "/dev/") {
		return nil, invalid("devices: %s is no device node below /dev", clip(d.GetHostPath()))
	}
	return found, nil
}

// IsOwnNode tells whether a device that a tenant asks for may be at a path of the
// container: below /dev, and nothing that every container has there.
func IsOwnNode(p string) bool {
	name, below := strings.CutPrefix(p, "/dev/")
	first, _, _ := strings.Cut(name, "/")
	if !below || name == "" || path.Clean(p) != p || slices.Contains(standardNodes, first) {
		return false
	}
	return !slices.ContainsFunc(ownedByContainer, func(dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") })
}

// standardNodes are the nodes and links that libcontainer makes in each container's /dev.
var standardNodes = []string{"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console", "stdin", "stdout", "stderr", "core"}

// HostDevices are all nodes in the host's /dev but those in directories that a container
// has of its own. A privileged container gets them. Devices come and go, so it is called
// for each container.
func HostDevices() ([]Device, error) { return devicesBelow("/dev", "/dev", anyAccess) }

// devicesBelow lists device nodes. It follows no symbolic links, and a node that
// disappears meanwhile is no error.
func devicesBelow(root, dest, access string) ([]Device, error) {
	var out []Device
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && p != root:
			return nil
		case err != nil:
			return err
		case e.IsDir() && slices.Contains(ownedByContainer, p):
			return fs.SkipDir
		case e.Type()&fs.ModeDevice == 0 || p == "/dev/console":
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		if d, ok := deviceOf(info, p, path.Join(dest, strings.TrimPrefix(p, root)), access); ok {
			out = append(out, d)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing devices: %w", err)
	}
	return out, nil
}

// ownedByContainer are folders of /dev that a container has a mount or link of
// its own for.
var ownedByContainer = []string{"/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.udev"}

func deviceOf(info fs.FileInfo, source, dest, access string) (Device, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&fs.ModeDevice == 0 {
		return Device{}, false
	}
	kind := "b"
	if info.Mode()&fs.ModeCharDevice != 0 {
		kind = "c"
	}
	mode := os.FileMode(st.Mode &^ unix.S_IFMT)
	return Device{
		LinuxDevice: specs.LinuxDevice{
			Path:  dest,
			Type:  kind,
			Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
			FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
		},
		Access: access, Source: source,
	}, true
}

// CDINames are the fully qualified CDI devices a container asks for: by the
// field, and by the cdi.k8s.io annotations of device plugins older than it.
func CDINames(c *runtimeapi.ContainerConfig) ([]string, error) {
	var names []string
	for _, d := range c.GetCDIDevices() {
		names = append(names, d.GetName())
	}
	_, annotated, err := cdi.ParseAnnotations(c.GetAnnotations())
	if err != nil {
		return nil, invalid("annotations: %w", err)
	}
	for _, n := range annotated {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names, nil
}

// InjectCDI edits a spec from [Draft.Complete] as the CDI files in dirs say for the named
// devices. The files are read anew each time. The error wraps [ErrInvalid]; it names the
// device and the file that is to blame.
func InjectCDI(spec *specs.Spec, names, dirs []string) error {
	if len(names) == 0 {
		return nil
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(dirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return fmt.Errorf("reading CDI files: %w", err)
	}
	missing, err := cache.InjectDevices(spec, names...)
	switch {
	case len(missing) > 0:
		return missingCDI(cache, missing, dirs)
	case err != nil:
		return failedCDI(cache, names, err)
	}
	return nil
}

// missingCDI tells why devices are not there: no file has them, or files that may have
// them can't be used.
func missingCDI(cache *cdi.Cache, names, dirs []string) error {
	faults := cache.GetErrors()
	if len(faults) == 0 {
		return invalid("CDI devices %q are in no file of %q", names, dirs)
	}
	var texts []string
	for _, file := range slices.Sorted(maps.Keys(faults)) {
		texts = append(texts, fmt.Sprintf("%s: %v", file, errors.Join(faults[file]...)))
	}
	return invalid("CDI devices %q are in no usable file of %q; these can't be used: %s", names, dirs, strings.Join(texts, "; "))
}

// failedCDI finds the device whose edits can't be made, by trying each alone.
func failedCDI(cache *cdi.Cache, names []string, err error) error {
	for _, name := range names {
		d := cache.GetDevice(name)
		if d == nil {
			continue // the file has changed since
		}
		alone := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
		if err := errors.Join(d.GetSpec().ApplyEdits(alone), d.ApplyEdits(alone)); err != nil {
			return invalid("CDI device %q of %s: %w", name, d.GetSpec().GetPath(), err)
		}
	}
	return invalid("CDI devices %q: %w", names, err)
}
