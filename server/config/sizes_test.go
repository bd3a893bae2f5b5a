package config

import (
	"strings"
	"testing"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "4096": 4096, "64MiB": 64 << 20, "64Mi": 64 << 20, "1Gi": 1 << 30, "3KiB": 3 << 10, "2TiB": 2 << 40,
		"": -1, "MiB": -1, "-1": -1, "1.5Gi": -1, "1 MiB": -1, "1MB": -1, "64mib": -1, "9223372036854775808": -1, "9999999999TiB": -1, "0x10": -1, "+1": -1,
	} {
		got, err := ParseSize(text)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("ParseSize(%q) = %d, want %d", text, got, want)
		}
	}
}

func TestCheckSizes(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"shm_size: want a number of bytes":      func(c *Config) { c.ShmSize = "much" },
		"shm_size: want at least a page":        func(c *Config) { c.ShmSize = "1KiB" },
		"max_message_size: want a number":       func(c *Config) { c.MaxMessageSize = "16MB" },
		"max_message_size: want 4MiB to 64MiB,": func(c *Config) { c.MaxMessageSize = "65MiB" },
		"64MiB, not 4095KiB":                    func(c *Config) { c.MaxMessageSize = "4095KiB" },
		`log_limits: want size=BYTES`:           func(c *Config) { c.LogLimits = []string{"lines=1000000"} },
		`once each and at least 64KiB, not "s`:  func(c *Config) { c.LogLimits = []string{"size=1GiB", "size=2GiB"} },
		`once each and at least 64KiB, not "ra`: func(c *Config) { c.LogLimits = []string{"rate=1KiB"} },
		`log_limits: "size=": want a number`:    func(c *Config) { c.LogLimits = []string{"size="} },
		"seccomp_default: want an absolute":     func(c *Config) { c.SeccompDefault = "x.json" },
		"cni_conf_template: want an absolute":   func(c *Config) { c.CNIConfTemplate = "x" },
	} {
		c := Default()
		change(&c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want …%s…", err, want)
		}
	}
	c := Default()
	c.LogLimits = []string{"rate=1MiB", "size=2GiB"}
	if size, rate, err := c.LogBounds(); size != 2<<30 || rate != 1<<20 || err != nil {
		t.Errorf("log_limits %q are size %d, rate %d, %v", c.LogLimits, size, rate, err)
	}
}
