package config

import (
	"reflect"
)

// Reloaded is c with those values of next that may change while the daemon runs; their
// fields have the tag reload. restart are the keys of all others that differ. Of timeouts
// only drain may change, so that it can be in both.
func (c Config) Reloaded(next Config) (merged Config, changed, restart []string) {
	merged = c
	into, from := reflect.ValueOf(&merged).Elem(), reflect.ValueOf(next)
	for i := range into.NumField() {
		if reflect.DeepEqual(into.Field(i).Interface(), from.Field(i).Interface()) {
			continue
		}
		tag := into.Type().Field(i).Tag
		switch tag.Get("reload") {
		case "":
			restart = append(restart, tag.Get("toml"))
		case "yes":
			into.Field(i).Set(from.Field(i))
			changed = append(changed, tag.Get("toml"))
		default:
			drain, others := merged.reloadDrain(next)
			if drain {
				changed = append(changed, tag.Get("toml"))
			}
			if others {
				restart = append(restart, tag.Get("toml"))
			}
		}
	}
	return merged, changed, restart
}

// reloadDrain takes drain of next's timeouts, and tells whether it and whether others are
// different there. Both were checked.
func (c *Config) reloadDrain(next Config) (drain, others bool) {
	now, _ := c.TimeBounds()
	wanted, _ := next.TimeBounds()
	drain = now.Drain != wanted.Drain
	now.Drain = wanted.Drain
	if drain {
		c.Timeouts = now.list()
	}
	return drain, now != wanted
}
