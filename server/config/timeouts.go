package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// TimeBounds are timeouts, read.
type TimeBounds struct {
	CNIAdd time.Duration // of one ADD of the network's plugins
	CNIDel time.Duration // of one DEL
	Stop   time.Duration // from SIGKILL to the end of a container
	Drain  time.Duration // of the calls in flight after SIGTERM
}

// bound is what one element NAME=DURATION of a list sets.
type bound struct {
	name        string
	value       *time.Duration
	least, most time.Duration
}

const (
	// shortest is less than what a plugin or the end of a process takes on a busy machine.
	shortest = time.Second
	// longest is more than any client of the CRI waits for a call.
	longest = 10 * time.Minute
	// longestDrain is more than any service manager waits for a service to end.
	longestDrain = time.Hour
	// maxNRITimeout is less than what the kubelet waits for a call, two minutes.
	maxNRITimeout = time.Minute
)

func (t *TimeBounds) bounds() []bound {
	return []bound{
		{"cni-add", &t.CNIAdd, shortest, longest},
		{"cni-del", &t.CNIDel, shortest, longest},
		{"stop", &t.Stop, shortest, longest},
		{"drain", &t.Drain, 0, longestDrain},
	}
}

// list is t as timeouts has it.
func (t TimeBounds) list() []string {
	var out []string
	for _, b := range t.bounds() {
		out = append(out, b.name+"="+b.value.String())
	}
	return out
}

// defaultBounds are what timeouts does not name. The kubelet gives up on a pod after two
// minutes. A DEL has the shorter of what people wait for a pod to go and what a plugin that
// asks an API server may need.
func defaultBounds() TimeBounds {
	return TimeBounds{CNIAdd: 2 * time.Minute, CNIDel: 30 * time.Second, Stop: 30 * time.Second, Drain: 10 * time.Second}
}

// TimeBounds reads timeouts. What is not named has its default.
func (c Config) TimeBounds() (TimeBounds, error) {
	t := defaultBounds()
	return t, readBounds(c.Timeouts, t.bounds())
}

// NRIBounds reads nri_timeouts: how long a plugin may take to register, and to answer. What
// is not named has its default.
func (c Config) NRIBounds() (register, request time.Duration, err error) {
	register, request = 5*time.Second, 2*time.Second
	err = readBounds(c.NRITimeouts, []bound{
		{"register", &register, time.Millisecond, maxNRITimeout},
		{"request", &request, time.Millisecond, maxNRITimeout},
	})
	return register, request, err
}

// readBounds sets what a list of NAME=DURATION names.
func readBounds(list []string, bounds []bound) error {
	seen := make(map[string]bool, len(bounds))
	for _, text := range list {
		name, value, _ := strings.Cut(text, "=")
		i := slices.IndexFunc(bounds, func(b bound) bool { return b.name == name })
		if i < 0 || seen[name] {
			var names []string
			for _, b := range bounds {
				names = append(names, b.name)
			}
			return fmt.Errorf("want NAME=DURATION with the names %s, once each, not %.40q", strings.Join(names, ", "), text)
		}
		seen[name] = true
		b := bounds[i]
		d, err := time.ParseDuration(value)
		if err != nil {
			return fmt.Errorf("want a duration such as %s=10s, not %.40q", name, text)
		}
		if d < b.least || d > b.most {
			return fmt.Errorf("want %s to be %s to %s, not %s", name, b.least, b.most, d)
		}
		*b.value = d
	}
	return nil
}
