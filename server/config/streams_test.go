package config

import (
	"strings"
	"testing"
)

func TestCheckStreams(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"stream_tls: want a certificate's": func(c *Config) { c.StreamTLS = []string{"/a", "/b", "/c"} },
		"stream_tls: want absolute paths":  func(c *Config) { c.StreamTLS = []string{"tls.pem"} },
		`"self-signed" alone`:              func(c *Config) { c.StreamTLS = []string{"/a", SelfSigned} },
		"stream_tls: want min=1.2 or":      func(c *Config) { c.StreamTLS = []string{SelfSigned, "min=1.1"} },
		`most one min=VERSION, not "min=1`: func(c *Config) { c.StreamTLS = []string{"/a", "min=1.2", "min=1.3"} },
		"stream_tls: want a certificate b": func(c *Config) { c.StreamTLS = []string{"min=1.3"} },
		`-signed", not 3 values`:           func(c *Config) { c.StreamTLS = []string{"/a", "/b", "/c", "min=1.3"} },
		"stream_idle_timeout: want more":   func(c *Config) { c.StreamIdleTimeout = 0 },
	} {
		c := Default()
		change(&c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want …%s…", err, want)
		}
	}
	for _, good := range [][]string{{}, {SelfSigned}, {"/both.pem"}, {"/tls.crt", "/tls.key"}, {"/tls.crt", "/tls.key", "min=1.3"}, {SelfSigned, "min=1.2"}} {
		c := Default()
		c.StreamTLS = good
		if err := c.Check(); err != nil {
			t.Errorf("stream_tls = %q: %v", good, err)
		}
	}
}
