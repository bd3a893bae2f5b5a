package hostcheck

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"berth/oci"
	"berth/server/runtimes"
)

// checkRuntimes looks for the programs of each runtime handler and asks them what they can
// do, all at the same time.
func checkRuntimes(ctx context.Context, m machine) Finding {
	if len(m.cfg.Runtimes) == 0 {
		return fine("the built-in one alone, as no table [runtime.NAME] names another")
	}
	driver, err := shimPath(m)
	if err != nil {
		driver = "berth-shim" // found nowhere; the check of the shim says so
	}
	set := runtimes.New(ctx, runtimes.Options{
		Tables: m.cfg.Runtimes, Driver: driver + "-v2", State: m.cfg.State,
		SystemdCgroup: m.host.SystemdCgroup, Host: m.host.HandlerFeatures(),
	})
	defer set.Close()
	set.Wait()
	refused, silent := unmet(m), []string{}
	for _, state := range set.States() {
		what := strings.Join(strings.Fields(state.Error), " ") // on one line
		switch {
		case state.Refused:
			refused = append(refused, what)
		case what != "":
			silent = append(silent, what)
		}
	}
	switch {
	case len(refused) > 0:
		return limited(strings.Join(append(refused, silent...), "; "), "until then pods of these handlers are refused")
	case len(silent) > 0:
		return limited(strings.Join(silent, "; "), "pods of these handlers get neither user namespaces nor recursive read-only mounts; see whether the shim is of containerd 2.0 or later")
	}
	return fine("%s, and the built-in one", strings.Join(set.Names(), ", "))
}

// unmet is what the tables ask of this machine that it does not have.
func unmet(m machine) (what []string) {
	for _, name := range slices.Sorted(maps.Keys(m.cfg.Runtimes)) {
		r := m.cfg.Runtimes[name]
		for _, entry := range r.Devices {
			if problem := unfitDevice(entry); problem != "" {
				what = append(what, fmt.Sprintf("runtime.%s.devices: %s", name, problem))
			}
		}
		if c := r.ShimCgroup; m.host.SystemdCgroup && c != "" && c != "pod" && !strings.HasSuffix(c, ".slice") {
			what = append(what, fmt.Sprintf("runtime.%s.shim_cgroup: %s is no slice, which cgroup_driver systemd needs", name, c))
		}
	}
	return what
}

// unfitDevice tells why a device can't be given to containers; "" if it can.
func unfitDevice(entry string) string {
	parts := strings.Split(entry, ":")
	at := parts[0]
	if len(parts) > 1 && strings.HasPrefix(parts[1], "/") {
		at = parts[1]
	}
	if !oci.IsOwnNode(at) {
		return "each container has something of its own at " + at
	}
	return noDevice(parts[0])
}
