package integration

import (
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Values of variables are bytes, as those of a Secret: a container and what is
// executed in it get the very same, whoever runs them and below an init as well.
func TestVariablesAreBytes(t *testing.T) {
	want := map[string]string{"BYTES": "\xff\x80\xc3", "TEXT": "é\u20ac \n", "BERTH_BYTES_1": "A=\u00ff"}
	variables := func(c *runtimeapi.ContainerConfig) {
		for k, v := range want {
			c.Envs = append(c.Envs, &runtimeapi.KeyValue{Key: k, Value: []byte(v)})
		}
	}
	check := func(t *testing.T, what, got string) {
		t.Helper()
		for k, v := range want {
			if !strings.Contains(got, "\x00"+k+"="+v+"\x00") {
				t.Errorf("%s: %s is not among %q", what, k, got)
			}
		}
		if strings.Contains(got, "BERTH_BYTES_0") {
			t.Errorf("%s: it has variables that nobody gave it: %q", what, got)
		}
	}
	for _, init := range []string{"false", "true"} {
		t.Run("init "+init, func(t *testing.T) {
			p := shared.pod(t, named(init), func(c *runtimeapi.PodSandboxConfig) {
				c.Annotations = map[string]string{"berth/init": init}
			})
			for name, user := range map[string]int64{"root": 0, "user": 1000} {
				c := p.idle(name, variables, ownPIDs, func(c *runtimeapi.ContainerConfig) {
					c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: user}
					c.Linux.SecurityContext.ReadonlyRootfs = user != 0
				})
				var environ string // empty for a moment while its shell becomes another program
				eventually(t, "it has an environment", func() bool {
					environ = procFile(t, slices.Max(pids(t, c)), "environ")
					return environ != ""
				})
				check(t, name+" at start", environ)
				check(t, name+" in an exec", c.Sh("cat /proc/self/environ"))
				if r, err := c.execSync(5, "nosuch"); err == nil && r.GetExitCode() != 127 {
					t.Errorf("%s: a missing command ends with %d", name, r.GetExitCode())
				}
			}
			plain := p.start("plain", "sleep 1000", ownPIDs)
			if got := plain.Sh("ls -a /dev"); strings.Contains(got, "berth") != (init == "true") {
				t.Errorf("without such variables /dev has %q", got)
			}
		})
	}
}
