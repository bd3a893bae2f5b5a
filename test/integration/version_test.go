package integration

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/test/node"
)

// berth version tells all that runs: also a shim that has its pods since before an upgrade.
func TestVersions(t *testing.T) {
	s := own(t, node.Options{})
	s.pod(t)
	said := s.berth(t, "--address", s.Endpoint, "version")
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`berth +\d+\.\d+\.\d+\S*`, fmt.Sprintf(`berthd +\d+\.\d+\.\d+\S*, pid %d`, s.PID()),
		fmt.Sprintf(`berth-shim +\d+\.\d+\.\d+\S*, pid %d, pods: 1, libcontainer v1\.\d+\.\d+\S*`, s.shim(t)),
		`go +go1\.\S+`, `kernel +` + regexp.QuoteMeta(unix.ByteSliceToString(host.Release[:])) + ` \w+`,
	} {
		if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(said) {
			t.Errorf("berth version lacks a line %s:\n%s", line, said)
		}
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if said := s.berth(t, "--address", s.Endpoint, "version"); !strings.Contains(said, "berthd  ") || !strings.Contains(said, "not running at "+s.Endpoint) {
		t.Errorf("without a daemon berth version says\n%s", said)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.resubscribe(t)
}
