package hostcheck

import (
	"context"
	"os"
	"slices"
	"strings"
)

// checkDevices looks at the devices of allowed_devices, of the node and of its runtimes. One
// that is missing may come with its module or its hardware, so pods that don't ask for it run.
func checkDevices(_ context.Context, m machine) Finding {
	allowed := slices.Clone(m.cfg.AllowedDevices)
	for _, r := range m.cfg.Runtimes {
		allowed = append(allowed, r.AllowedDevices...)
	}
	slices.Sort(allowed)
	allowed = slices.Compact(allowed)
	if len(allowed) == 0 {
		return fine("pods may ask for none, as allowed_devices is empty")
	}
	var wrong []string
	for _, path := range allowed {
		if problem := noDevice(path); problem != "" {
			wrong = append(wrong, problem)
		}
	}
	if len(wrong) > 0 {
		return limited(strings.Join(wrong, "; "), "load their modules, or take them out of allowed_devices: pods that ask for them don't start")
	}
	return fine("pods may ask for %s", strings.Join(allowed, ", "))
}

// noDevice tells why there is no device at path; "" if there is one.
func noDevice(path string) string {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err.Error()
	case info.Mode()&os.ModeDevice == 0:
		return path + " is not a device"
	}
	return ""
}
