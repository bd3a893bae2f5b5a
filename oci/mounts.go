package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ResolveMounts finds the real path of each host_path and checks that propagation
// can work from there. Image mounts keep an empty Source for the caller to fill.
//
// With [Host.CreateSources] a host_path that is missing becomes a directory of root,
// mode 0755, that stays: the kubelet checks the volumes that have a type, and
// workloads rely on those that have none to be made, as containerd and CRI-O do.
// Without it that is an error, since a directory in place of a mistyped file or of a
// disk not yet mounted hides the mistake. Errors wrap [ErrInvalid] or
// [ErrUnsupported].
func ResolveMounts(mounts []*runtimeapi.Mount, h Host) ([]Mount, error) {
	out := make([]Mount, 0, len(mounts))
	for _, m := range mounts {
		if err := CheckMount(m, h); err != nil {
			return nil, err
		}
		if m.GetImage().GetImage() != "" {
			out = append(out, Mount{Mount: m})
			continue
		}
		source, err := resolveSource(m, h.CreateSources)
		if err != nil {
			return nil, err
		}
		if err := checkPropagation(source, m.GetPropagation()); err != nil {
			return nil, err
		}
		out = append(out, Mount{Mount: m, Source: source})
	}
	return out, nil
}

func resolveSource(m *runtimeapi.Mount, create bool) (string, error) {
	host := m.GetHostPath()
	if !filepath.IsAbs(host) {
		return "", invalid("mount of %s: host_path %s must be an absolute path", clip(m.GetContainerPath()), clip(host))
	}
	source, err := filepath.EvalSymlinks(host)
	if errors.Is(err, fs.ErrNotExist) && create {
		if err := os.MkdirAll(host, 0o755); err != nil {
			return "", invalid("mount of %s: host_path %s is missing and can't be made a directory: %s: make what the pod needs there", clip(m.GetContainerPath()), clip(host), reason(err))
		}
		source, err = filepath.EvalSymlinks(host)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", invalid("mount of %s: host_path %s does not exist on the node: create it, or give the hostPath volume the type DirectoryOrCreate or FileOrCreate", clip(m.GetContainerPath()), clip(host))
	}
	if err != nil {
		return "", invalid("mount of %s: host_path %s: %s", clip(m.GetContainerPath()), clip(host), reason(err))
	}
	return source, nil
}

// reason is the text of an error without the path in it, which a client may have made
// very long.
func reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// checkPropagation refuses a propagation that would have no effect: a bind mount takes
// part in the propagation of the mount that it is made from, and in no more.
func checkPropagation(source string, p runtimeapi.MountPropagation) error {
	if p == runtimeapi.MountPropagation_PROPAGATION_PRIVATE {
		return nil
	}
	mount, err := mountOf(source)
	if err != nil {
		return err
	}
	shared, slave := strings.Contains(mount.Optional, "shared:"), strings.Contains(mount.Optional, "master:")
	if shared || slave && p == runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER {
		return nil
	}
	return invalid("mount of host_path %s: propagation %s needs a shared mount on the node, but %s isn't one: run mount --make-rshared %[3]s, or ask for PRIVATE", clip(source), strings.TrimPrefix(p.String(), "PROPAGATION_"), mount.Mountpoint)
}

// mountOf asks the kernel which mount a path is on. A comparison of the path with the
// mount points would give a wrong answer where several mounts are at one path.
func mountOf(path string) (*mountinfo.Info, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st); err != nil {
		return nil, fmt.Errorf("looking for the mount of %s: %w", clip(path), err)
	}
	found, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return uint64(m.ID) != st.Mnt_id, uint64(m.ID) == st.Mnt_id
	})
	if err != nil {
		return nil, fmt.Errorf("reading mounts: %w", err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("the mount of %s went away", clip(path))
	}
	return found[0], nil
}

// CheckIDMap tries whether each mount with uidMappings can be idmapped into the user
// namespace of the process pid. It tries that on a copy of the mount which nobody sees.
// The error wraps [ErrUnsupported] and names the first mount whose file system does not
// support it.
func CheckIDMap(mounts []Mount, pid int) error {
	var user *os.File
	for _, m := range mounts {
		if m.Source == "" || len(m.GetUidMappings()) == 0 {
			continue
		}
		if user == nil {
			f, err := os.Open(nsPath(pid, "user"))
			if err != nil {
				return fmt.Errorf("opening the pod's user namespace: %w", err)
			}
			defer f.Close()
			user = f
		}
		if err := tryIDMap(m.Source, user); err != nil {
			return unsupported("mount of host_path %s: its file system can't be idmapped into the pod's user namespace (%w): use another volume type, or hostUsers: true", clip(m.GetHostPath()), err)
		}
	}
	return nil
}

func tryIDMap(source string, user *os.File) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(user.Fd()),
	})
}
