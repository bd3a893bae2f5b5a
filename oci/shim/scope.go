package shim

import (
	"path"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/opencontainers/cgroups"

	"berth/oci/shimapi"
)

// scopeProperties are those of a container's scope beside libcontainer's. With the default
// dependencies systemd stops the scope as the node shuts down, by SIGTERM to all its
// processes and SIGKILL after the time given; libcontainer turns them off, which leaves
// the container to the last step of a shutdown. The order is reversed at a stop: the
// container ends before the network does, and before its shim, which records how it ended.
//
// It is not ordered after the daemon's unit: while that has a job, such as a restart that
// waits for calls in flight, the start of the scope would wait for it, and it for the call
// that starts the scope.
func scopeProperties(s *shimapi.Scope) []systemd.Property {
	if s == nil {
		return nil
	}
	after := []string{"network.target"}
	if own := ownScope(); own != "" {
		after = append(after, own)
	}
	return []systemd.Property{
		{Name: "DefaultDependencies", Value: dbus.MakeVariant(true)},
		{Name: "After", Value: dbus.MakeVariant(after)},
		{Name: "TimeoutStopUSec", Value: dbus.MakeVariant(uint64(s.StopTimeout.Microseconds()))},
		// One that was killed at the end of that time is no unit that stays as failed.
		{Name: "CollectMode", Value: dbus.MakeVariant("inactive-or-failed")},
	}
}

// ownScope is the scope that this shim runs in; "" without one.
func ownScope() string {
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	for _, hierarchy := range []string{"", "name=systemd"} {
		if unit := path.Base(own[hierarchy]); path.Ext(unit) == ".scope" {
			return unit
		}
	}
	return ""
}
