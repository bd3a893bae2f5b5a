package packaging

import (
	"os"
	"path/filepath"
	"testing"
)

// The life of the package, as far as it can be seen without systemd: on a machine of its
// own, with this one's files and packages, apt and dpkg, and a script for systemctl.
func TestPackageLifeStandIn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	if found, err := filepath.Glob(filepath.Join(lifeDir, "*.deb")); err != nil || len(found) < 2 {
		t.Skip("no packages in bin/life: run make debs first")
	}
	for _, p := range []string{"cni/bridge", "crictl", "demo"} {
		if _, err := os.Stat("../../bin/" + p); err != nil {
			t.Skip("no bin/" + p + ": run make build cni crictl debs first")
		}
	}
	apart(t, "TestGuestPackageLife", nodeEnv+"=stand-in")
}

// standIn puts the script where systemctl and journalctl are: scripts of packages get a PATH
// of apt.
func standIn(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll("/run/systemd/system", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"systemctl", "journalctl"} {
		output(t, "install", "-m", "755", absolute(t, "testdata/systemctl"), "/usr/bin/"+name)
	}
}
