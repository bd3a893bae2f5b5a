package config

import (
	"strings"
	"testing"
)

func TestCheckTraces(t *testing.T) {
	for endpoint, good := range map[string]bool{
		"": true, "http://127.0.0.1:4317": true, "https://collector.example:4317": true, "http://[::1]:4317/": true, "unix:///run/otel.sock": true,
		"127.0.0.1:4317": false, "localhost:4317": false, "http://collector": false, "unix://otel.sock": false, "http://h:1/v1/traces": false, "::": false,
	} {
		c := Default()
		c.TraceEndpoint = endpoint
		if err := c.Check(); (err == nil) != good {
			t.Errorf("trace_endpoint %q: %v", endpoint, err)
		}
	}
	for _, n := range []int{-1, 1e6 + 1} {
		c := Default()
		c.TraceSampling = n
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), "trace_sampling: want 0 to 1000000") {
			t.Errorf("trace_sampling %d: %v", n, err)
		}
	}
}
