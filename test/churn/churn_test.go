package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestChurn is a short run; make churn does the long one.
func TestChurn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"berthd", "berth-shim"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			t.Skipf("no bin/%s: run make build first", name)
		}
	}
	opts, err := parseOptions([]string{"-n", "300", "-rounds", "3", "-every", "400ms", "-timeout", "3m", "-berthd", filepath.Join(bin, "berthd")})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("-seed %d", opts.seed)
	began := time.Now()
	c, err := churn(t.Context(), opts)
	if c != nil {
		t.Logf("after %v:\n%s", time.Since(began).Round(time.Millisecond), c.report())
	}
	if err != nil {
		t.Fatal(err)
	}
	if c.kills == 0 {
		t.Error("berthd was never killed")
	}
}
