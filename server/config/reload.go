package config

import "reflect"

// Reloaded is c with those values of next that may change while the daemon runs; their
// fields have the tag reload. restart are the keys of all others that differ.
func (c Config) Reloaded(next Config) (merged Config, changed, restart []string) {
	merged = c
	into, from := reflect.ValueOf(&merged).Elem(), reflect.ValueOf(next)
	for i := range into.NumField() {
		if reflect.DeepEqual(into.Field(i).Interface(), from.Field(i).Interface()) {
			continue
		}
		tag := into.Type().Field(i).Tag
		if tag.Get("reload") == "" {
			restart = append(restart, tag.Get("toml"))
			continue
		}
		into.Field(i).Set(from.Field(i))
		changed = append(changed, tag.Get("toml"))
	}
	return merged, changed, restart
}
