package hostcheck

import (
	"context"
	"strings"

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
	var refused, silent []string
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
