package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Mounts makes and undoes the mounts of a pod that are neither an image's nor a
// shim's.
type Mounts interface {
	// MountShm mounts a tmpfs for /dev/shm at an existing directory.
	MountShm(path, options string) error
	// PinNamespace mounts a namespace at path, which is made when it is missing.
	PinNamespace(ns *os.File, path string) error
	// Unmount detaches what is mounted at path. Nothing mounted there is no error.
	Unmount(path string) error
}

// kernelMounts are the mounts of this process's mount namespace.
type kernelMounts struct{}

// MountShm implements [Mounts].
func (kernelMounts) MountShm(path, options string) error {
	return unix.Mount("shm", path, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, options)
}

// PinNamespace implements [Mounts].
func (kernelMounts) PinNamespace(ns *os.File, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o444)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), path, "", unix.MS_BIND, "")
}

// Unmount implements [Mounts]. It detaches lazily, so that a process that still looks
// into the mount can't keep a pod from going.
func (kernelMounts) Unmount(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("unmount %s: %w", path, err)
}
