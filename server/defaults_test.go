package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/oci"
	"berth/server/config"
)

// What the configuration file shows as the default is what containers get.
func TestDefaultsAreTheBuiltIn(t *testing.T) {
	d, err := containerDefaults(config.Default())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(oci.DefaultCapabilities(), d.Capabilities); diff != "" {
		t.Errorf("default_capabilities differ from the built-in ones: %s", diff)
	}
	if d.ShmSize != 64<<20 || d.Log.Size != 0 || d.Log.Rate != 0 || len(d.Ulimits) != 0 || d.Seccomp != nil || d.OwnDevices {
		t.Errorf("the defaults are %+v", d)
	}
}

// What can't work is an error with the key's name, before any pod is looked at.
func TestWrongDefaults(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.json")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*config.Config){
		"default_ulimits: ":      func(c *config.Config) { c.DefaultUlimits = []string{"files=1"} },
		"default_capabilities: ": func(c *config.Config) { c.DefaultCapabilities = []string{"FLY"} },
		"seccomp_default: ":      func(c *config.Config) { c.SeccompDefault = broken },
		"shm_size: ":             func(c *config.Config) { c.ShmSize = "x" },
		"log_limits: ":           func(c *config.Config) { c.LogLimits = []string{"x"} },
	} {
		c := config.Default()
		change(&c)
		if _, err := containerDefaults(c); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s…", err, want)
		}
	}
}
