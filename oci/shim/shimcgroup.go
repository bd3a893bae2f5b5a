package shim

import (
	"fmt"
	"path/filepath"
	"strings"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// foreignCgroup describes the cgroup of a pod's foreign shim, see
// [shimapi.Runtime.ShimCgroup].
func foreignCgroup(path string) (*cgroups.Cgroup, error) {
	bySystemd := !filepath.IsAbs(path) // slice:prefix:name
	if err := checkCgroupPath(path, bySystemd); err != nil {
		return nil, fmt.Errorf("cgroup of the foreign shim: %w", err)
	}
	c := &cgroups.Cgroup{Systemd: bySystemd, Resources: &cgroups.Resources{SkipDevices: true}}
	if !bySystemd {
		c.Path = filepath.Clean(path)
		return c, nil
	}
	part := strings.Split(path, ":")
	c.Parent, c.ScopePrefix, c.Name = part[0], part[1], part[2]
	c.SystemdProps = append(ownProperties(), systemd.PropBefore(shimapi.ContainersSlice), killSignal(int(unix.SIGKILL)))
	return c, nil
}

// EnterCgroup makes the cgroup of a pod's foreign shim and moves a process there, which is
// about to become that shim.
func EnterCgroup(path string, pid int) error {
	c, err := foreignCgroup(path)
	if err != nil {
		return err
	}
	m, err := manager.New(c)
	if err == nil {
		err = m.Apply(pid)
	}
	if err != nil {
		return fmt.Errorf("cgroup of the foreign shim: %w", err)
	}
	return nil
}

// removeForeignCgroup ends what a foreign shim that has ended has left in its cgroup, such as
// a helper of its runtime, and removes that. It can be repeated.
func removeForeignCgroup(r shimapi.Runtime) error {
	if r.ShimCgroup == "" {
		return nil
	}
	c, err := foreignCgroup(r.ShimCgroup)
	if err != nil {
		return err
	}
	m, err := manager.New(c)
	if err != nil {
		return err
	}
	exists := false // Exists would look for the cgroup of devices, in which the shim is not put
	for _, dir := range m.GetPaths() {
		exists = exists || cgroups.PathExists(dir)
	}
	if !exists {
		return nil
	}
	if err := endCgroup(c); err != nil {
		return fmt.Errorf("cgroup of the foreign shim: %w", err)
	}
	return nil
}
