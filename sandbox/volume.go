package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/oci/openat2"
)

// mountImageVolumes mounts the images that a container wants as volumes and returns the
// binds of them.
func (v *containerVerbs) mountImageVolumes(ctx context.Context, volumes []volumePlan) ([]oci.Mount, error) {
	var out []oci.Mount
	for _, vol := range volumes {
		if err := os.MkdirAll(vol.Image.Target, 0o711); err != nil {
			return nil, volumeError(vol.Bind, err)
		}
		if err := v.images.Mount(ctx, vol.Image); err != nil {
			return nil, volumeError(vol.Bind, fmt.Errorf("mount: %w", err))
		}
		source, err := subPath(vol.Image.Target, vol.Bind.GetImageSubPath())
		if err != nil {
			return nil, volumeError(vol.Bind, err)
		}
		out = append(out, oci.Mount{Mount: vol.Bind, Source: source})
	}
	return out, nil
}

// volumeError says which image volume an error is about.
func volumeError(m *runtimeapi.Mount, err error) error {
	return failed(ErrImageVolume, "image volume at %.200q: %w", m.GetContainerPath(), err)
}

// subPath resolves a directory or file inside a mounted image without leaving it.
// Nothing is opened by it but as a handle: a FIFO would block, a device act.
func subPath(dir, sub string) (string, error) {
	if sub == "" {
		return dir, nil
	}
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", fmt.Errorf("open image volume: %w", err)
	}
	defer root.Close()
	// Found below the root, so that a link in the image can't lead out of it; the
	// name of what was found is a path without links.
	fd, err := openat2.Open(int(root.Fd()), sub, unix.O_PATH|unix.O_CLOEXEC, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS)
	if errors.Is(err, fs.ErrNotExist) {
		return "", failed(ErrInvalid, "image_sub_path %q does not exist in the image", sub)
	}
	if err != nil {
		return "", failed(ErrInvalid, "image_sub_path %q: %w", sub, err)
	}
	defer unix.Close(fd) // only a handle
	real, err := pathOfHandle(fd)
	if err != nil {
		return "", fmt.Errorf("image_sub_path %q: %w", sub, err)
	}
	if real != dir && !strings.HasPrefix(real, dir+"/") {
		return "", failed(ErrInvalid, "image_sub_path %q leaves the image", sub)
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
		return "", failed(ErrInvalid, "it is neither a directory nor a regular file")
	}
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
}
