package server

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"berth/oci"
	"berth/oci/shims"
	"berth/server/config"
	"berth/server/traces"
)

func TestLimitsNamesWhatIsMissing(t *testing.T) {
	whole := oci.Host{
		LowerOOM: true, Seccomp: true, AppArmor: true, UserNS: true, IDMap: true, RRO: true, SwapAccount: true,
		Controllers: map[string]bool{"cpu": true, "cpuset": true, "memory": true, "pids": true, "hugetlb": true},
	}
	if got := limits(whole); len(got) > 0 {
		t.Errorf("a host with everything is said to miss %v", got)
	}
	poor := whole
	poor.LowerOOM, poor.AppArmor = false, false
	poor.Controllers = map[string]bool{"cpu": true}
	var said []string
	for _, l := range limits(poor) {
		said = append(said, l[0])
	}
	selinux := whole
	selinux.SELinux = true
	if got := limits(selinux); len(got) != 1 || !strings.Contains(got[0][0], "SELinux policy") {
		t.Errorf("a policy that knows no containers is told of as %v", got)
	}
	for _, want := range []string{"CAP_SYS_RESOURCE", "AppArmor", "controller memory", "controller pids"} {
		if !strings.Contains(strings.Join(said, "; "), want) {
			t.Errorf("%q is not among %q", want, said)
		}
	}
}

// What is waited for at SIGTERM, one after the other, takes less than the unit gives the
// daemon to end: what systemd kills has not closed what it had open.
func TestEndIsWithinTheUnitsTime(t *testing.T) {
	unit, err := os.ReadFile("../hack/berthd.service")
	if err != nil {
		t.Fatal(err)
	}
	given := regexp.MustCompile(`(?m)^TimeoutStopSec=(\d+)$`).FindSubmatch(unit)
	if given == nil {
		t.Fatal("the unit has no TimeoutStopSec in seconds")
	}
	most, err := time.ParseDuration(string(given[1]) + "s")
	if err != nil {
		t.Fatal(err)
	}
	bounds, err := config.Default().TimeBounds()
	if err != nil {
		t.Fatal(err)
	}
	// Calls that change something, those that do not, empty shims, a hand-over, and spans.
	if sum := bounds.Drain + readersTimeout + shimsTimeout + shims.ClosePatience + traces.FlushTimeout; sum >= most {
		t.Errorf("the end may take %v, the unit kills the daemon after %v", sum, most)
	}
}
