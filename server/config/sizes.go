package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// units are what a size may end with; Ki and the like are Kubernetes' names.
var units = []struct {
	suffix string
	bytes  int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"", 1},
}

// ParseSize reads a number of bytes such as 64MiB, 1Gi or 4096.
func ParseSize(s string) (int64, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok || digits == "" || strings.Trim(digits, "0123456789") != "" {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n > math.MaxInt64/u.bytes {
			break
		}
		return n * u.bytes, nil
	}
	return 0, fmt.Errorf("want a number of bytes such as 64MiB, not %.40q", s)
}

const (
	// minShm is a page.
	minShm = 4 << 10
	// minLogRate lets what is left in a container's pipes at its end be logged in time.
	minLogRate = 64 << 10
	// minLogSize has room for a few lines.
	minLogSize = 64 << 10
	// minMessage is what gRPC takes by itself. The environment of a container may have
	// several ConfigMaps of 1 MiB.
	minMessage = 4 << 20
	// maxMessage is more than any request that a shim and execve(2) go along with.
	maxMessage = 64 << 20
)

// LogBounds are log_limits in bytes, and bytes a second; 0: without that limit.
func (c Config) LogBounds() (size, rate int64, err error) {
	for _, l := range c.LogLimits {
		name, value, _ := strings.Cut(l, "=")
		n, perr := ParseSize(value)
		switch {
		case perr != nil:
			return 0, 0, fmt.Errorf("%.40q: %w", l, perr)
		case name == "size" && size == 0 && n >= minLogSize:
			size = n
		case name == "rate" && rate == 0 && n >= minLogRate:
			rate = n
		default:
			return 0, 0, fmt.Errorf("want size=BYTES and rate=BYTES, once each and at least 64KiB, not %.40q", l)
		}
	}
	return size, rate, nil
}

func (c Config) checkSizes(wrong func(key, format string, args ...any)) {
	if n, err := ParseSize(c.ShmSize); err != nil {
		wrong("shm_size", "%w", err)
	} else if n < minShm {
		wrong("shm_size", "want at least a page, 4KiB, not %s", c.ShmSize)
	}
	if n, err := ParseSize(c.MaxMessageSize); err != nil {
		wrong("max_message_size", "%w", err)
	} else if n < minMessage || n > maxMessage {
		wrong("max_message_size", "want 4MiB to 64MiB, not %s", c.MaxMessageSize)
	}
	if _, _, err := c.LogBounds(); err != nil {
		wrong("log_limits", "%w", err)
	}
}
