package config

import (
	"strings"
	"testing"
)

func TestNRISocketPath(t *testing.T) {
	for _, c := range []struct{ socket, state, want string }{
		{Auto, "/run/berth", "/var/run/nri/nri.sock"},
		{Auto, "/run/other", "/run/other/nri.sock"}, // daemons side by side
		{Off, "/run/berth", ""},
		{"/a/b.sock", "/run/other", "/a/b.sock"},
	} {
		cfg := Default()
		cfg.NRISocket, cfg.State = c.socket, c.state
		if got := cfg.NRISocketPath(); got != c.want {
			t.Errorf("%s in %s: %q, want %q", c.socket, c.state, got, c.want)
		}
	}
}

func TestNRIMistakes(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"nri_socket: ":                      func(c *Config) { c.NRISocket = "relative" },
		"nri_reject: ":                      func(c *Config) { c.NRIReject = []string{"hooks", "everything"} },
		"nri_timeouts: want request to be":  func(c *Config) { c.NRITimeouts = []string{"request=0s"} },
		"nri_timeouts: want register to be": func(c *Config) { c.NRITimeouts = []string{"request=3s", "register=1h"} },
		"nri_plugin_dir: ":                  func(c *Config) { c.NRIPluginDir = "plugins" },
		"cdi_spec_dirs: ":                   func(c *Config) { c.CDISpecDirs = []string{"/etc/cdi/"} },
	} {
		cfg := Default()
		change(&cfg)
		if err := cfg.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
