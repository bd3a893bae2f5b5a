package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// TestStopFrozen stops containers that somebody froze, themselves or a cgroup below
// their own, as a container may make one.
func TestStopFrozen(t *testing.T) {
	for _, below := range []bool{false, true} {
		t.Run(map[bool]string{false: "itself", true: "below"}[below], func(t *testing.T) {
			c := shared.pod(t).idle("c")
			dir := cgroupDir(t, c.hostPID(), "freezer")
			if below {
				dir = innerCgroup(t, dir, c.hostPID())
			}
			freeze(t, dir)
			began := time.Now()
			c.Stop(0)
			if took := time.Since(began); took > client.Bound(5*time.Second) {
				t.Errorf("the stop took %v", took)
			}
			if st := c.Ended(); st.GetExitCode() != 137 {
				t.Errorf("it ended with %d", st.GetExitCode())
			}
		})
	}
}

// innerCgroup moves a process into a new cgroup below its own.
func innerCgroup(t *testing.T, dir string, pid int) string {
	t.Helper()
	inner := filepath.Join(dir, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(inner, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		t.Fatal(err)
	}
	return inner
}

// freeze returns when all processes of the cgroup stand still.
func freeze(t *testing.T, dir string) {
	t.Helper()
	file, frozen := filepath.Join(dir, "freezer.state"), "FROZEN"
	if v2 {
		file, frozen = filepath.Join(dir, "cgroup.freeze"), "1"
	}
	if err := os.WriteFile(file, []byte(frozen), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cgroup is frozen", func() bool { // v1 looks at its processes when it is read
		text, err := os.ReadFile(file)
		return err == nil && string(text) == frozen+"\n"
	})
}

// TestAdoptedTracerGoesOn kills the shim while a container with CAP_SYS_PTRACE is
// frozen, as it is while another container of its pod is made.
func TestAdoptedTracerGoesOn(t *testing.T) {
	s := own(t, node.Options{})
	c := s.pod(t).start("c", "while :; do echo on; sleep 0.02; done", guarded(func(sc *runtimeapi.LinuxContainerSecurityContext) {
		sc.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_PTRACE"}}
	}))
	freeze(t, cgroupDir(t, c.hostPID(), "freezer"))
	if err := syscall.Kill(s.shim(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.grows(t)
}
