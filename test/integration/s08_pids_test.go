package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// forkBomb starts 300 processes, or as many as it may: a shell that can't fork
// gives up with code 2.
const forkBomb = "i=0; while [ $i -lt 300 ]; do sleep 1000 & i=$((i+1)); done"

const pidsOfPod = 40

// S08: a fork bomb under the pids limit of its pod, where the kubelet sets it. Fork
// fails inside, nobody else is harmed, and explain names the limit, also when the
// shell that could not fork has ended of it.
func TestS08PidsLimit(t *testing.T) {
	parent := shared.CgroupMark + "-pids"
	dir := limitedParent(t, parent)
	p := shared.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "/" + parent })
	other := shared.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "other" })
	neighbour := other.idle("neighbour")
	t.Run("child", func(t *testing.T) {
		c := p.in(t).start("child", "("+forkBomb+"); echo bomb=$?; exec sleep 1000")
		c.says("bomb=")
		refusedForks(t, c, dir)
		if log := output(readLog(t, c.logFile()), "stderr"); !strings.Contains(log, "can't fork") {
			t.Errorf("inside: %q", log)
		}
		c.likely("cgroup", "pids limit of 40", "fork fails inside")
		if got := neighbour.exec("sh -c 'echo fine'"); got != "fine\n" {
			t.Errorf("the neighbour gives %q", got)
		}
		if out, err := exec.Command("sh", "-c", "/bin/true && echo fine").CombinedOutput(); err != nil || string(out) != "fine\n" {
			t.Errorf("the host can't fork: %q, %v", out, err)
		}
		c.stop(0)
	})
	t.Run("first process", func(t *testing.T) {
		c := p.in(t).start("first", forkBomb)
		if st := c.ended(); st.GetExitCode() != 2 {
			t.Errorf("it ended with %d %s", st.GetExitCode(), st.GetReason())
		}
		if left := pids(t, c); len(left) > 0 {
			t.Errorf("processes left: %v", left)
		}
		c.likely("cgroup", "pids limit of 40")
	})
	t.Run("own limit", func(t *testing.T) {
		onlyV2(t, p.in(t), "pids.max", "20")
		c := p.in(t).start("own", "("+forkBomb+"); echo bomb=$?; exec sleep 1000", resources(&runtimeapi.LinuxContainerResources{
			Unified: map[string]string{"pids.max": "20"},
		}))
		c.says("bomb=")
		c.likely("cgroup", "pids limit of 20")
	})
}

// limitedParent makes the cgroup that the kubelet would make for a pod.
func limitedParent(t *testing.T, name string) string {
	t.Helper()
	if v2 {
		if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+pids"), 0); err != nil {
			t.Fatal(err)
		}
	}
	limited := ""
	for _, dir := range cgroupDirs(name) {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		if _, err := os.Stat(filepath.Join(dir, "pids.max")); err == nil {
			limited = dir
		}
	}
	if limited == "" {
		t.Skip("the kernel has no pids controller here")
	}
	if err := os.WriteFile(filepath.Join(limited, "pids.max"), fmt.Append(nil, pidsOfPod), 0); err != nil {
		t.Fatal(err)
	}
	return limited
}

// refusedForks wants the kernel to have refused forks, and no more tasks than allowed.
func refusedForks(t *testing.T, c *ctr, parent string) {
	t.Helper()
	if n := number(t, cgroupRead(t, parent, "pids.current", "pids.current")); n > pidsOfPod || n < pidsOfPod/2 {
		t.Errorf("the pod has %d tasks", n)
	}
	own := cgroupDir(t, c.hostPID(), "pids")
	if n := cgroupKey(t, own, "pids.events", "pids.events", "max") + cgroupKey(t, parent, "pids.events", "pids.events", "max"); n == 0 {
		t.Error("the kernel counts no refused fork")
	}
}
