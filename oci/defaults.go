package oci

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/shimapi"
)

// Defaults are what the operator gives to containers that ask for nothing of the kind. The
// zero value is what the peers give.
type Defaults struct {
	// Ulimits are the limits of each container's processes; of those that are not in it the
	// shim's own count (getrlimit(2)). The CRI has no field for them (KEP-5758).
	Ulimits []specs.POSIXRlimit
	// Capabilities are those that add and drop of a container start from; nil:
	// [DefaultCapabilities].
	Capabilities []string
	// Seccomp is the profile that RuntimeDefault means; nil: the built-in one.
	Seccomp *seccomp.Seccomp
	// OwnDevices gives the devices that a container asks for to its run_as_user and
	// run_as_group, instead of to who has them on the host.
	OwnDevices bool
	// ShmSize is the size of a pod's /dev/shm in bytes; 0 is 64 MiB.
	ShmSize int64
	// Log limits each container's log.
	Log shimapi.LogLimits
}

// ParseUlimits reads limits such as nofile=1024:4096 (soft and hard), core=0 or
// memlock=unlimited.
func ParseUlimits(list []string) ([]specs.POSIXRlimit, error) {
	var out []specs.POSIXRlimit
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		soft, hard, two := strings.Cut(value, ":")
		if !two {
			hard = soft
		}
		l := specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name)}
		var err error
		if l.Soft, err = parseLimit(soft); err == nil {
			l.Hard, err = parseLimit(hard)
		}
		switch {
		case !ok || err != nil || !slices.Contains(ulimits, name):
			return nil, invalid("ulimit %s: give NAME=SOFT:HARD or NAME=BOTH with numbers or unlimited, NAME being one of %s", clip(text), strings.Join(ulimits, ", "))
		case l.Soft > l.Hard:
			return nil, invalid("ulimit %s: the soft limit is above the hard one", clip(text))
		case slices.ContainsFunc(out, func(have specs.POSIXRlimit) bool { return have.Type == l.Type }):
			return nil, invalid("ulimit %s is there twice", clip(name))
		}
		out = append(out, l)
	}
	return out, nil
}

// ulimits are the limits of getrlimit(2), as limits.conf(5) and ulimit(1) name them.
var ulimits = []string{
	"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
}

func parseLimit(s string) (n uint64, err error) {
	if s == "unlimited" || s == "-1" {
		return ^uint64(0), nil // RLIM_INFINITY
	}
	if strings.Trim(s, "0123456789") != "" {
		return 0, fmt.Errorf("%q is no number", s)
	}
	_, err = fmt.Sscan(s, &n)
	return n, err
}

// ParseCapabilities reads names of capabilities, with or without CAP_. The result is never
// nil.
func ParseCapabilities(list []string) ([]string, error) {
	names, all, err := parseCapabilityList("default", list)
	if err == nil && all {
		err = invalid("ALL is no default for containers: name the capabilities")
	}
	return append([]string{}, names...), err
}

// LoadDefaultSeccomp reads a profile for [Defaults.Seccomp].
func LoadDefaultSeccomp(path string) (*seccomp.Seccomp, error) {
	data, err := readProfile(path, "/")
	if err != nil {
		return nil, err
	}
	return parseSeccomp(path, data)
}

func parseSeccomp(name string, data []byte) (*seccomp.Seccomp, error) {
	var profile seccomp.Seccomp
	if err := json.Unmarshal(data, &profile); err != nil {
		return nil, invalid("seccomp profile %s: %w", clip(name), err)
	}
	if profile.DefaultAction == "" {
		return nil, invalid("seccomp profile %s: defaultAction is missing", clip(name))
	}
	return &profile, nil
}
