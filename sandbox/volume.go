package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/sandbox/record"
)

// mountImageVolumes mounts the images a container wants as volumes (KEP-4639)
// and returns the binds of them.
func (v *containerVerbs) mountImageVolumes(ctx context.Context, c *Container) ([]oci.Mount, error) {
	var out []oci.Mount
	for i, mt := range c.rec.get().config.GetMounts() {
		if mt.GetImage().GetImage() == "" {
			continue
		}
		if err := checkImageVolume(mt); err != nil {
			return nil, err
		}
		dir, err := v.mountImageVolume(ctx, c, i)
		if err != nil {
			return nil, fmt.Errorf("image volume at %s: %w", mt.GetContainerPath(), err)
		}
		source, err := subPath(dir, mt.GetImageSubPath())
		if err != nil {
			return nil, err
		}
		bind := proto.Clone(mt).(*runtimeapi.Mount)
		bind.Readonly = true // whether it was said or not: nobody writes to an image
		// The layers are already shifted into the pod's user namespace.
		bind.UidMappings, bind.GidMappings = nil, nil
		out = append(out, oci.Mount{Mount: bind, Source: source})
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, c.change(written, func(*containerRecord) {})
}

func checkImageVolume(mt *runtimeapi.Mount) error {
	if mt.GetHostPath() != "" {
		return fmt.Errorf("mount at %s has both host_path and image; leave one out: %w", mt.GetContainerPath(), ErrInvalid)
	}
	return nil
}

// mountImageVolume mounts the image of mount i; destroy finds it in the record.
func (v *containerVerbs) mountImageVolume(ctx context.Context, c *Container, i int) (string, error) {
	img, err := v.images.Resolve(c.rec.get().config.GetMounts()[i].GetImage().GetImage())
	if err != nil {
		return "", err
	}
	dir := filepath.Join(v.paths.imageVolumesDir(c.id), strconv.Itoa(i))
	_ = c.change(inMemory, func(rec *containerRecord) { // which can't fail
		rec.Volumes = append(rec.Volumes, record.Volume{Target: dir, Layers: img.Layers, ImageID: img.ID})
	})
	if err := v.images.Hold(c.id, c.rec.get().Held()); err != nil {
		return "", fmt.Errorf("hold image: %w", err)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", fmt.Errorf("make mount point: %w", err)
	}
	pod := c.pod.rec.get()
	if err := v.images.Mount(ctx, RootfsRequest{Layers: img.Layers, Target: dir, UIDMap: pod.uids, GIDMap: pod.gids}); err != nil {
		return "", fmt.Errorf("mount: %w", err)
	}
	return dir, nil
}

// subPath resolves a directory or file inside a mounted image without leaving it.
// Nothing is opened by it but as a handle: a FIFO would block, a device act.
func subPath(dir, sub string) (string, error) {
	if sub == "" {
		return dir, nil
	}
	if filepath.IsAbs(sub) || !filepath.IsLocal(sub) {
		return "", fmt.Errorf("image_sub_path %q: use a relative path without ..: %w", sub, ErrInvalid)
	}
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", fmt.Errorf("open image volume: %w", err)
	}
	defer root.Close()
	// Found below the root, so that a link in the image can't lead out of it; the
	// name of what was found is a path without links.
	fd, err := openHandle(root, sub, unix.O_PATH|unix.O_CLOEXEC, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("image_sub_path %q does not exist in the image: %w", sub, ErrInvalid)
	}
	if err != nil {
		return "", fmt.Errorf("image_sub_path %q: %w: %w", sub, err, ErrInvalid)
	}
	defer unix.Close(fd) // only a handle
	real, err := pathOfHandle(fd)
	if err != nil {
		return "", fmt.Errorf("image_sub_path %q: %w", sub, err)
	}
	if real != dir && !strings.HasPrefix(real, dir+"/") {
		return "", fmt.Errorf("image_sub_path %q leaves the image: %w", sub, ErrInvalid)
	}
	return real, nil
}

// pathOfHandle gives the path of a directory or regular file; of another kind the
// error wraps ErrInvalid.
func pathOfHandle(fd int) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return "", fmt.Errorf("it is neither a directory nor a regular file: %w", ErrInvalid)
	}
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
}
