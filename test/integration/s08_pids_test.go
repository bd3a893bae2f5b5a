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
	parent, dir := limitedParent(t)
	p := shared.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "/" + parent })
	other := shared.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "other" })
	neighbour := other.idle("neighbour")
	t.Run("child", func(t *testing.T) {
		c := p.in(t).start("child", "("+forkBomb+"); echo bomb=$?; exec sleep 1000")
		c.says("bomb=")
		refusedForks(t, c, dir)
		if log := output(readLog(t, c.LogFile()), "stderr"); !strings.Contains(log, "can't fork") {
			t.Errorf("inside: %q", log)
		}
		c.likely("cgroup", "pids limit of 40", "fork fails inside")
		if got := neighbour.Sh("sh -c 'echo fine'"); got != "fine\n" {
			t.Errorf("the neighbour gives %q", got)
		}
		if out, err := exec.Command("sh", "-c", "/bin/true && echo fine").CombinedOutput(); err != nil || string(out) != "fine\n" {
			t.Errorf("the host can't fork: %q, %v", out, err)
		}
		c.Stop(0)
	})
	t.Run("first process", func(t *testing.T) {
		c := p.in(t).start("first", forkBomb)
		if st := c.Ended(); st.GetExitCode() != 2 {
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

// limitedParent makes the cgroup that the kubelet would make for a pod, with a limit.
func limitedParent(t *testing.T) (name, dir string) {
	t.Helper()
	if systemdDriver(t) {
		name = limitedSlice(t)
	} else {
		name = shared.CgroupMark + "-pids"
		makeCgroup(t, name)
	}
	for _, d := range cgroupDirs(name) {
		if _, err := os.Stat(filepath.Join(d, "pids.max")); err == nil {
			dir = d
		}
	}
	if dir == "" {
		t.Skip("the kernel has no pids controller here")
	}
	if err := os.WriteFile(filepath.Join(dir, "pids.max"), fmt.Append(nil, pidsOfPod), 0); err != nil {
		t.Fatal(err)
	}
	return name, dir
}

func makeCgroup(t *testing.T, name string) {
	t.Helper()
	if v2 {
		if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+pids"), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range cgroupDirs(name) {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
	}
}

// limitedSlice asks systemd, whose cgroups are its own; a dash would mean a slice
// in a slice.
func limitedSlice(t *testing.T) string {
	t.Helper()
	name := strings.ReplaceAll(shared.CgroupMark, "-", "") + "pids.slice"
	systemctl := func(args ...string) {
		if out, err := exec.Command("systemctl", args...).CombinedOutput(); err != nil {
			t.Errorf("systemctl %q: %v: %s", args, err, out)
		}
	}
	systemctl("set-property", "--runtime", name, fmt.Sprint("TasksMax=", pidsOfPod))
	systemctl("start", name)
	t.Cleanup(func() {
		systemctl("stop", name)
		systemctl("revert", name)
	})
	return name
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
