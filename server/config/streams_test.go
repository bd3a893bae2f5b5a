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
		"stream_tls_min_version: want":     func(c *Config) { c.StreamTLSMinVersion = "1.1" },
		"stream_idle_timeout: want more":   func(c *Config) { c.StreamIdleTimeout = 0 },
	} {
		c := Default()
		change(&c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want …%s…", err, want)
		}
	}
	for _, good := range [][]string{{}, {SelfSigned}, {"/both.pem"}, {"/tls.crt", "/tls.key"}} {
		c := Default()
		c.StreamTLS = good
		if err := c.Check(); err != nil {
			t.Errorf("stream_tls = %q: %v", good, err)
		}
	}
}
