package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// layout is where everything of a pod or container is on disk. Every path is a function
// of the ID, so that what is left of either can be found by listing.
type layout struct {
	root  string // durable records and writable layers
	state string // namespaces and mounts; ends with the boot
}

// makeDirs makes the directories that hold those of pods and containers.
func (l layout) makeDirs() error {
	for dir, mode := range map[string]os.FileMode{
		l.podsDir(): 0o700, l.podStatesDir(): 0o700,
		l.containerStatesDir(): 0o711, // see makeStateDir
	} {
		// An earlier version, or an operator, may have made it more open.
		if err := errors.Join(os.MkdirAll(dir, mode), os.Chmod(dir, mode)); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	return nil
}

// makeStateDir makes the directory of a container's mounts. Users of the host
// must not get at what an image or a container made setuid (CVE-2021-41103); only
// the container's root, which may be none of the host's, has to pass.
func (l layout) makeStateDir(id string, gid uint32) error {
	dir := l.containerStateDir(id)
	err := os.Mkdir(dir, 0o710)
	if err == nil && gid != 0 {
		err = os.Chown(dir, 0, int(gid))
	}
	if err != nil {
		return fmt.Errorf("make container directory: %w", err)
	}
	return nil
}

func (l layout) podStatesDir() string       { return filepath.Join(l.state, "pods") }
func (l layout) containerStatesDir() string { return filepath.Join(l.state, "containers") }

func (l layout) podsDir() string          { return filepath.Join(l.root, "pods") }
func (l layout) quarantineDir() string    { return filepath.Join(l.root, "quarantine") }
func (l layout) podDir(pod string) string { return filepath.Join(l.podsDir(), pod) }
func (l layout) podFile(pod, name string) string {
	return filepath.Join(l.podDir(pod), name)
}
func (l layout) podStateDir(pod string) string { return filepath.Join(l.podStatesDir(), pod) }
func (l layout) netnsPath(pod string) string   { return filepath.Join(l.podStateDir(pod), "net") }
func (l layout) shmPath(pod string) string     { return filepath.Join(l.podStateDir(pod), "shm") }

// sandboxRootfs is the mount of the image of a pod's sandbox container.
func (l layout) sandboxRootfs(pod string) string { return filepath.Join(l.podStateDir(pod), "rootfs") }

// sandboxProgram is the root filesystem of sandbox containers without an image.
func (l layout) sandboxProgram() string { return filepath.Join(l.root, "sandbox-rootfs") }

func (l layout) containersDir(pod string) string { return filepath.Join(l.podDir(pod), "containers") }
func (l layout) containerDir(pod, ctr string) string {
	return filepath.Join(l.containersDir(pod), ctr)
}
func (l layout) containerFile(pod, ctr, name string) string {
	return filepath.Join(l.containerDir(pod, ctr), name)
}
func (l layout) containerStateDir(ctr string) string {
	return filepath.Join(l.containerStatesDir(), ctr)
}
func (l layout) rootfsPath(ctr string) string {
	return filepath.Join(l.containerStateDir(ctr), "rootfs")
}
func (l layout) imageVolumesDir(ctr string) string {
	return filepath.Join(l.containerStateDir(ctr), "images")
}
