package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/oci/openat2"
)

// maxDeclared is how many volumes an image may declare; each is a lookup in its
// tree, and a mount when the root filesystem is read-only.
const maxDeclared = 1000

// declared are the volumes an image declares, in one container.
type declared struct {
	rootfs string
	owner  fileOwner // of directories that are made: the container's root
	mounts []oci.Mount
}

// declareVolumes makes the directories that an image declares as volumes, so that
// they exist to be written. Their content is in the writable layer as anything else
// is that the container writes: it is counted there and goes with it. Only a
// read-only root filesystem needs a mount of each directory onto itself, which
// stays writable; those mounts are returned. Left out is what a mount of the config
// or of every container covers.
func declareVolumes(ctx context.Context, d declared, volumes map[string]struct{}, readonly bool) ([]oci.Mount, error) {
	if len(volumes) == 0 {
		return nil, nil
	}
	root, err := os.Open(d.rootfs)
	if err != nil {
		return nil, fmt.Errorf("open root filesystem: %w", err)
	}
	defer func() { _ = root.Close() }()
	places, err := d.places(volumes)
	if err != nil {
		return nil, err
	}
	var out []oci.Mount
	for _, at := range places {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := mkdirInRoot(root, at, d.owner); err != nil {
			return nil, failed(ErrInvalid, "make volume %s declared by the image: %w", at, err)
		}
		if readonly {
			source := filepath.Join(d.rootfs, at)
			out = append(out, oci.Mount{Mount: &runtimeapi.Mount{ContainerPath: at, HostPath: source}, Source: source})
		}
	}
	return out, nil
}

// places are where the volumes that nothing covers are in the root filesystem, as
// paths without links and in order.
func (d *declared) places(volumes map[string]struct{}) ([]string, error) {
	covers := []string{"/proc", "/dev", "/sys"} // the mounts of every container
	for _, mt := range d.mounts {
		at, err := inRoot(d.rootfs, mt.GetContainerPath())
		if err != nil {
			return nil, fmt.Errorf("mount at %s: %w", mt.GetContainerPath(), err)
		}
		covers = append(covers, at)
	}
	found := map[string]bool{}
	for v := range volumes {
		if slices.ContainsFunc(covers, func(above string) bool { return isBelow(path.Clean("/"+v), above) }) {
			continue // before it is looked up: the mount needs no link of the image
		}
		at, err := inRoot(d.rootfs, v)
		if err != nil {
			return nil, fmt.Errorf("volume %s declared by the image: %w", v, err)
		}
		if at != "/" && !slices.ContainsFunc(covers, func(above string) bool { return isBelow(at, above) }) {
			found[at] = true
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// inRoot follows links as a process with that root would, those too that lead to
// nothing yet: /var/run is a link to /run, which images leave out.
func inRoot(rootfs, name string) (string, error) {
	joined, err := securejoin.SecureJoin(rootfs, name)
	if err != nil {
		return "", failed(ErrInvalid, "%w", err)
	}
	return path.Join("/", strings.TrimPrefix(joined, filepath.Clean(rootfs))), nil
}

// isBelow tells whether a path is at or below another one.
func isBelow(at, above string) bool {
	return at == above || strings.HasPrefix(at, above+"/")
}

// mkdirInRoot makes a directory with those above it as a process with that root
// would: a link leads below root, never out of it. os.Root would refuse absolute ones.
func mkdirInRoot(root *os.File, path string, owner fileOwner) error {
	parent, err := openDirInRoot(root, "/")
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(parent) }()
	done := ""
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if name == "" {
			continue // the root itself
		}
		done += "/" + name
		dir, err := openDirInRoot(root, done)
		if errors.Is(err, unix.ENOENT) {
			err = errors.Join(unix.Mkdirat(parent, name, 0o755),
				unix.Fchownat(parent, name, int(owner.UID), int(owner.GID), unix.AT_SYMLINK_NOFOLLOW))
			if err == nil {
				dir, err = openDirInRoot(root, done)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", done, err)
		}
		_ = unix.Close(parent) // only a handle
		parent = dir
	}
	return nil
}

func openDirInRoot(root *os.File, path string) (fd int, err error) {
	return openat2.Open(int(root.Fd()), path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}
