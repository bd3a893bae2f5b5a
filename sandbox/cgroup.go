package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/oci/shimapi"
)

// cgroupRoot is where every system mounts it.
const cgroupRoot = "/sys/fs/cgroup"

// cgroupParent is the cgroup the containers of a pod go under. A client that
// names none (crictl) gets one for its pod alone.
func cgroupParent(h oci.Host, rec *podRecord) string {
	if p := rec.config.GetLinux().GetCgroupParent(); p != "" {
		return p
	}
	if h.SystemdCgroup {
		return "system.slice"
	}
	return "/berth-" + rec.ID[:13]
}

// withCgroupParent is the configuration with the cgroup that is used when it names none.
func withCgroupParent(cfg *runtimeapi.PodSandboxConfig, parent string) *runtimeapi.PodSandboxConfig {
	out := proto.Clone(cfg).(*runtimeapi.PodSandboxConfig)
	if out.Linux == nil {
		out.Linux = &runtimeapi.LinuxPodSandboxConfig{}
	}
	out.Linux.CgroupParent = parent
	return out
}

// podLimits are the limits of a pod's cgroup that berth sets: those of its own. One that the
// client names is the client's, which has limited it already, and which would undo what
// another writes (the kubelet does both). The error wraps [ErrInvalid] or [ErrUnsupported].
func podLimits(cfg *runtimeapi.PodSandboxConfig, h oci.Host, parent string) (*shimapi.PodLimits, error) {
	l := cfg.GetLinux()
	if l.GetCgroupParent() != "" {
		return nil, nil
	}
	r, err := oci.PodLimits(l.GetResources(), l.GetOverhead(), h)
	if err != nil || r == nil {
		return nil, asDomain(err)
	}
	if h.SystemdCgroup {
		return nil, failed(ErrUnsupported, "linux.resources, linux.overhead: the cgroups of pods are slices of systemd, and the pod has none; name one by linux.cgroup_parent, and limit it there")
	}
	return &shimapi.PodLimits{Path: parent, Resources: r}, nil
}

// cgroupDirs are the directories of a cgroup that berth makes and removes. With the
// systemd driver slices are systemd's: none.
func cgroupDirs(h oci.Host, path string) ([]string, error) {
	if h.SystemdCgroup {
		return nil, nil
	}
	return hierarchyDirs(h, path)
}

// hierarchyDirs are the directories of a cgroup, whoever makes it: one, or on v1 one a
// hierarchy.
func hierarchyDirs(h oci.Host, path string) ([]string, error) {
	if path == "" || path == "/" {
		return nil, nil
	}
	rel := filepath.Clean("/" + path)
	if h.CgroupV2 {
		return []string{cgroupRoot + rel}, nil
	}
	var out []string
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil, fmt.Errorf("hierarchies of cgroup %s: %w", path, err)
	}
	for _, e := range entries {
		if e.IsDir() { // not the symlinks of joined controllers
			out = append(out, filepath.Join(cgroupRoot, e.Name(), rel))
		}
	}
	return out, nil
}

// cgroupExists is true, too, of one that can't be looked at.
func cgroupExists(h oci.Host, path string) bool {
	dirs, err := cgroupDirs(h, path)
	if err != nil || dirs == nil {
		return true // unknown, or not ours to make or remove
	}
	for _, d := range dirs {
		if _, err := os.Stat(d); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENAMETOOLONG) {
			return true
		}
	}
	return false
}

// removeCgroup removes an empty cgroup. One in use stays, because rmdir refuses
// it; what is below it may be another pod's that is just being made.
func removeCgroup(h oci.Host, path string) error {
	dirs, err := cgroupDirs(h, path)
	errs := []error{err}
	for _, dir := range dirs {
		err := os.Remove(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENAMETOOLONG) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// containerCgroup is where the driver makes the cgroup of a container, below the root of a
// hierarchy.
func containerCgroup(h oci.Host, rec *podRecord, id string) string {
	parent := cgroupParent(h, rec)
	path, err := oci.CgroupsPath(parent, id, h)
	scope := strings.Split(path, ":")
	switch {
	case err != nil: // of a daemon with the other driver; this one makes nothing below such a parent
		return filepath.Join("/", parent, id)
	case len(scope) == 3:
		return filepath.Join(cgroupPath(h, scope[0]), scope[1]+"-"+scope[2]+".scope")
	default:
		return path
	}
}

// containerCgroups are the cgroups of a container that exist, by their names, with the
// hierarchy as the key. A scope is among them: systemd removes it when it is empty, and
// kills nothing in it.
func containerCgroups(h oci.Host, rec *podRecord, id string) (map[string]string, error) {
	out := make(map[string]string)
	dirs, err := hierarchyDirs(h, containerCgroup(h, rec, id))
	for _, dir := range dirs {
		if _, serr := os.Stat(dir); serr == nil {
			out[strings.TrimPrefix(dir, cgroupRoot)] = dir
		} else if !errors.Is(serr, fs.ErrNotExist) {
			err = serr
		}
	}
	return out, err
}

// topMissing is the highest of a cgroup and those above it that is not there yet:
// what making the cgroup will make. "" when it is there.
func topMissing(h oci.Host, path string) (top string) {
	for p := filepath.Clean("/" + path); p != "/" && !cgroupExists(h, p); p = filepath.Dir(p) {
		top = p
	}
	return top
}

// removeCgroups removes empty cgroups from path upwards to top, which is path
// itself or above it.
func removeCgroups(h oci.Host, path, top string) error {
	var errs []error
	for p := filepath.Clean("/" + path); p != "/"; p = filepath.Dir(p) {
		errs = append(errs, removeCgroup(h, p))
		if p == top {
			break
		}
	}
	return errors.Join(errs...)
}

// madeCgroups are cgroups that were made for a pod that is gone, by their path, with
// the highest that was made for it. They could not go with it: another pod is in them,
// or a process that the kernel does not let end yet.
type madeCgroups struct {
	mu  sync.Mutex
	top map[string]string
}

// release removes the cgroup at path and those above it up to top, which is "" where
// they were not made for this pod, and those that an earlier pod could not take along.
func (c *madeCgroups) release(h oci.Host, path, top string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if top == "" {
		top = c.top[path]
	}
	if top == "" {
		return nil
	}
	err := removeCgroups(h, path, top)
	delete(c.top, path)
	if cgroupExists(h, path) {
		c.top[path] = top
	}
	return err
}

// retry releases those that are left. It is called when a container ends that no pod
// has any more.
func (c *madeCgroups) retry(h oci.Host) error {
	c.mu.Lock()
	left := maps.Clone(c.top)
	c.mu.Unlock()
	var errs []error
	for path, top := range left {
		errs = append(errs, c.release(h, path, top))
	}
	return errors.Join(errs...)
}

// sandboxCgroup is the pod sandbox's own, beside those of the containers, which is removed
// with the pod; "" where it is a scope, which systemd removes when pause has ended. On v2
// pause is in it, so that it is the pod's to pay for. The kubelet's cAdvisor takes a cgroup
// of the sandbox's ID for the container that has the pod's network, and reads that from the
// process named by package containerdview; see [shimapi.RunPodRequest.CgroupPath].
func sandboxCgroup(h oci.Host, parent, pod string) string {
	if h.SystemdCgroup {
		return ""
	}
	return filepath.Join(strings.TrimPrefix(parent, "/"), pod)
}
