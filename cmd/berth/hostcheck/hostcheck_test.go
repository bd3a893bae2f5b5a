package hostcheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/server/config"
)

// here is a configuration whose directories are of this test alone.
func here(t *testing.T) config.Config {
	dir := t.TempDir()
	cfg := config.Default()
	cfg.Root, cfg.State = filepath.Join(dir, "root"), filepath.Join(dir, "run")
	cfg.Listen = "unix://" + filepath.Join(dir, "s")
	cfg.CNIConfDir = filepath.Join(dir, "net.d")
	cfg.CertsDir = []string{filepath.Join(dir, "certs.d")}
	return cfg
}

func TestEveryFindingSaysWhatToDo(t *testing.T) {
	cfg := here(t)
	cfg.LogLevel = -1
	findings := Run(t.Context(), cfg, "/dev/null", nil)
	if len(findings) != len(checks)+1 { // of registries there is one
		t.Fatalf("%d findings of %d checks", len(findings), len(checks))
	}
	for _, f := range findings {
		if f.Seen == "" || (f.Level == Fine) != (f.Do == "") {
			t.Errorf("%+v: needs a state, and advice exactly when it is not fine", f)
		}
	}
	if findings[0].Level != Broken || !strings.Contains(findings[0].Seen, "log_level") {
		t.Errorf("a bad configuration passed: %+v", findings[0])
	}
	var out strings.Builder
	worst, err := Write(&out, findings)
	if err != nil || worst != Broken {
		t.Errorf("worst is %v, %v", worst, err)
	}
	if n := strings.Count(out.String(), "\n"); n != len(findings) {
		t.Errorf("%d lines for %d findings:\n%s", n, len(findings), out.String())
	}
}

func TestChecksLeaveNothing(t *testing.T) {
	cfg := here(t)
	Run(t.Context(), cfg, "/dev/null", nil)
	left, err := os.ReadDir(filepath.Dir(cfg.Root))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), filepath.Dir(cfg.Root)) {
		t.Errorf("a mount was left, %v", err)
	}
}
