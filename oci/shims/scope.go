package shims

import (
	"context"
	"crypto/rand"
	"fmt"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"berth/oci/shimapi"
)

// scopeStop is what systemd gives a shim, which has nothing to finish, as the node shuts
// down. Its containers have ended by then.
const scopeStop = uint64(5e6) // microseconds

// startScope makes systemd put a shim that was just started into a scope of its own: a
// stop or restart of the daemon's unit, its limits and its accounting do not reach it.
// Each process has a scope of its own name, since systemd may not have forgotten a dead
// shim's when its replacement starts.
func startScope(ctx context.Context, shim string, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := systemd.NewWithContext(ctx)
	if err != nil {
		return fmt.Errorf("scope of the shim: %w", err)
	}
	defer conn.Close()
	name := fmt.Sprintf("berth-shim-%s-%s.scope", shim, rand.Text()[:6])
	ended := make(chan string, 1)
	_, err = conn.StartTransientUnitContext(ctx, name, "fail", []systemd.Property{
		systemd.PropDescription("berth, parent of containers"),
		systemd.PropSlice(shimapi.ShimSlice),
		systemd.PropBefore(shimapi.ContainersSlice),
		systemd.PropPids(uint32(pid)),
		{Name: "Delegate", Value: dbus.MakeVariant(true)}, // systemd changes nothing in it
		{Name: "TasksMax", Value: dbus.MakeVariant(^uint64(0))},
		{Name: "TimeoutStopUSec", Value: dbus.MakeVariant(scopeStop)},
		{Name: "CollectMode", Value: dbus.MakeVariant("inactive-or-failed")},
	}, ended)
	if err != nil {
		return fmt.Errorf("scope %s of the shim: %w", name, err)
	}
	select {
	case result := <-ended:
		if result != "done" {
			return fmt.Errorf("scope %s of the shim: systemd says %q", name, result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("scope %s of the shim: %w", name, ctx.Err())
	}
}
