package shim

import (
	"fmt"
	"strings"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// scopeProperties are those of a container's scope beside libcontainer's. With the default
// dependencies systemd stops the scope as the node shuts down, by the stop signal to all its
// processes and SIGKILL after the time given; libcontainer turns them off, which leaves
// the container to the last step of a shutdown. The order is reversed at a stop: the
// container ends before the network does, and before the shims.
//
// It is not ordered after the daemon's unit: while that has a job, such as a restart that
// waits for calls in flight, the start of the scope would wait for it, and it for the call
// that starts the scope.
func scopeProperties(s *shimapi.Scope) []systemd.Property {
	if s == nil {
		return nil
	}
	all := append(ownProperties(),
		systemd.PropWants(shimapi.ContainersSlice),
		systemd.PropAfter("network.target", shimapi.ContainersSlice),
		systemd.Property{Name: "TimeoutStopUSec", Value: dbus.MakeVariant(uint64(s.StopTimeout.Microseconds()))})
	if s.StopSignal != 0 {
		all = append(all, killSignal(s.StopSignal))
	}
	return all
}

// ownProperties are those of every scope of a pod. One that was killed at the end of its
// time is no unit that stays as failed.
func ownProperties() []systemd.Property {
	return []systemd.Property{
		{Name: "DefaultDependencies", Value: dbus.MakeVariant(true)},
		{Name: "CollectMode", Value: dbus.MakeVariant("inactive-or-failed")},
	}
}

func killSignal(number int) systemd.Property {
	return systemd.Property{Name: "KillSignal", Value: dbus.MakeVariant(int32(number))}
}

// startPauseScope makes systemd move a pause process into a scope of its own, which ends
// with it. path is slice:prefix:name.
func startPauseScope(path string, pid int) error {
	part := strings.Split(path, ":") // three, see checkCgroupPath
	scope := &cgroups.Cgroup{
		Parent: part[0], ScopePrefix: part[1], Name: part[2], Systemd: true,
		Resources:    &cgroups.Resources{SkipDevices: true},
		SystemdProps: append(ownProperties(), systemd.PropBefore(shimapi.ContainersSlice), killSignal(int(unix.SIGKILL))),
	}
	m, err := manager.New(scope)
	if err == nil {
		err = m.Apply(pid)
	}
	if err != nil {
		return fmt.Errorf("scope of pause: %w", err)
	}
	return nil
}
