package hostcheck

import (
	"testing"

	"berth/server/config"
)

func TestDevices(t *testing.T) {
	file := t.TempDir()
	for name, c := range map[string]struct {
		allowed []string
		level   Level
		seen    string
	}{
		"none":        {nil, Fine, "allowed_devices is empty"},
		"there":       {[]string{"/dev/null", "/dev/zero"}, Fine, "/dev/null, /dev/zero"},
		"missing":     {[]string{"/dev/null", "/dev/berth-none"}, Limited, "/dev/berth-none: no such file"},
		"no device":   {[]string{file}, Limited, file + " is not a device"},
		"both wrongs": {[]string{file, "/dev/berth-none"}, Limited, file + " is not a device"},
		"twice":       {[]string{"/dev/zero", "/dev/null", "/dev/zero"}, Fine, "ask for /dev/null, /dev/zero"},
	} {
		ofNode := config.Config{AllowedDevices: c.allowed}
		ofHandler := config.Config{Runtimes: map[string]config.Runtime{"a": {AllowedDevices: c.allowed}}}
		for _, cfg := range []config.Config{ofNode, ofHandler} {
			wantFinding(t, name, checkDevices(t.Context(), machine{cfg: cfg}), c.level, c.seen)
		}
	}
}
