package shim

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"berth/oci/atomicfile"
	"berth/oci/failure"
)

// stateDir is the directory in which libcontainer keeps the state of each container.
type stateDir string

// of is the directory of one container.
func (d stateDir) of(id string) string { return filepath.Join(string(d), id) }

// fifo is opened by the start of a container. libcontainer removes it then.
func (d stateDir) fifo(id string) string { return filepath.Join(d.of(id), "exec.fifo") }

func (d stateDir) hasFifo(id string) bool {
	_, err := os.Lstat(d.fifo(id))
	return !errors.Is(err, fs.ErrNotExist)
}

// releaseFifo opens the fifo for writing and closes it. If the container's process has died,
// libcontainer leaves a goroutine blocked in open(2) for reading, which this ends.
func (d stateDir) releaseFifo(id string) {
	if fd, err := unix.Open(d.fifo(id), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
		_ = unix.Close(fd) // the open has woken the reader
	}
}

// cgroupName is a file in the directory of a container that names its cgroup before that is
// made. libcontainer writes its own state only later.
const cgroupName = "cgroup.json"

func (d stateDir) noteCgroup(id string, c *cgroups.Cgroup) error {
	return atomicfile.WriteVolatile(filepath.Join(d.of(id), cgroupName), c)
}

// removeNoted kills the processes of the cgroup that was noted for a container, and removes
// the cgroup. If none was noted, the creation did not get that far.
func (d stateDir) removeNoted(id string) error {
	var config cgroups.Cgroup
	err := atomicfile.Read(filepath.Join(d.of(id), cgroupName), &config)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, atomicfile.ErrUnreadable) {
		return nil
	}
	if err != nil {
		return err
	}
	return endCgroup(&config)
}

// endCgroup kills the processes of a cgroup and removes it. One that is not there is none.
func endCgroup(config *cgroups.Cgroup) error {
	if config.Resources == nil {
		config.Resources = &cgroups.Resources{}
	}
	m, err := manager.New(config)
	if err != nil {
		return err
	}
	return errors.Join(group(m.GetPaths()).killAll(), m.Destroy())
}

// deleteRest removes what is left of a container whose creation was cut off by the death of
// the shim. After an error its directory is there still, for the next try.
func (d stateDir) deleteRest(id string) error {
	if !isSessionName(id) {
		return nil
	}
	_, err := os.Lstat(d.of(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	lc, err := libcontainer.Load(string(d), id)
	if failure.IsShortage(err) {
		return err
	}
	if err != nil {
		if err := d.removeNoted(id); err != nil {
			return err // without its directory nobody would find the cgroup
		}
		return os.RemoveAll(d.of(id))
	}
	was, err := lc.State()
	if err != nil {
		return err
	}
	return errors.Join(group(was.CgroupPaths).killAll(), destroy(lc))
}
