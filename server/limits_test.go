package server

import (
	"strings"
	"testing"

	"berth/oci"
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
