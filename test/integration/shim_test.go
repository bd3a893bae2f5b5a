package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/procfs"
	"berth/oci/shimapi"
	"berth/test/client"
	"berth/test/node"
)

// shim is the process of the only shim there is.
func (s *suite) shim(t *testing.T) int {
	t.Helper()
	pid, err := s.findShim()
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// findShim is shim where there may be none, while one replaces another.
func (s *suite) findShim() (int, error) {
	files, err := filepath.Glob(filepath.Join(s.State, "shims", "*", "shim.json"))
	if err != nil {
		return 0, err
	}
	if len(files) != 1 {
		return 0, fmt.Errorf("shims %q, want one", files)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		return 0, err
	}
	var identity struct{ PID int }
	err = json.Unmarshal(data, &identity)
	return identity.PID, err
}

// grows waits until the container's log gets longer.
func (c *ctr) grows(t *testing.T) {
	t.Helper()
	path := c.LogFile()
	size := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	before := size()
	for deadline := time.Now().Add(patience); size() <= before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the log does not grow")
		}
	}
}

// pipes counts the pipes of a daemon: it keeps the streams of containers for the next shim.
func pipes(t *testing.T, daemon int) (count int) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", daemon)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		to, _ := os.Readlink(filepath.Join(dir, e.Name())) // "" of one that was closed meanwhile
		if strings.HasPrefix(to, "pipe:") {
			count++
		}
	}
	return count
}

// kernelKeepsExits tells whether a pidfd tells how a process ended that somebody else has reaped:
// PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15.
func kernelKeepsExits(t *testing.T) bool {
	t.Helper()
	child := exec.Command("true")
	fd := -1
	child.SysProcAttr = &syscall.SysProcAttr{PidFD: &fd}
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	return unix.IoctlPidfdInfo(fd, &info) == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0
}

// The shim is killed while 20 pods run: another takes over and they never notice.
// With a daemon that did not start the shim it is the same.
func TestKilledShimHasAnHeir(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarted=%v", restarted), func(t *testing.T) { killShim(t, restarted) })
	}
}

func killShim(t *testing.T, restarted bool) {
	s := own(t, node.Options{})
	const count = 20
	pods := make([]*pod, count)
	counters := make([]*ctr, count)
	for i := range pods {
		pods[i] = s.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = fmt.Sprintf("pod-%d", i) })
		counters[i] = pods[i].start("counter", "trap 'exit 7' TERM; "+client.Counter)
	}
	ends := pods[0].start("ends", "trap 'echo last words; exit 3' TERM; echo ready; while :; do usleep 5000; done")
	for output(readLog(t, ends.LogFile()), "stdout") != "ready\n" {
		time.Sleep(time.Millisecond)
	}
	if restarted {
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.resubscribe(t)
		client.Eventually(t, "the daemon has the two streams of each container", func() bool { return pipes(t, s.PID()) >= 2*(count+1) })
	}
	pid, endsPID := counters[0].hostPID(), ends.hostPID()
	dead := s.shim(t)
	// What ends while the shim can't look ends in the gap.
	for _, sig := range []struct {
		pid int
		sig syscall.Signal
	}{{dead, syscall.SIGSTOP}, {endsPID, syscall.SIGTERM}} {
		if err := syscall.Kill(sig.pid, sig.sig); err != nil {
			t.Fatal(err)
		}
	}
	client.Eventually(t, "the container has ended, and its shim has not waited for it", func() bool {
		stat, err := procfs.ReadStat(endsPID)
		return err == nil && stat.Ended()
	})
	if err := syscall.Kill(dead, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for i, c := range counters {
		c.grows(t)
		if i == 0 {
			t.Logf("the first log grew after %v", time.Since(began))
		}
	}
	t.Logf("all logs grew after %v", time.Since(began))
	for i, p := range pods {
		if st := p.Status(); st.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY {
			t.Errorf("pod %d: %v", i, st.GetState())
		}
		if got := counters[i].Sh("echo $$-works"); !strings.HasSuffix(got, "-works\n") {
			t.Errorf("exec in container %d: %q", i, got)
		}
	}
	if now := counters[0].hostPID(); now != pid {
		t.Errorf("process %d became %d", pid, now)
	}
	// A daemon that did not start the shim is no ancestor of its containers: another process reaps
	// them, and only the kernel can tell how they ended.
	told := func(code int32) int32 {
		if restarted && !kernelKeepsExits(t) {
			return shimapi.CodeUnknown
		}
		return code
	}
	if st := ends.Ended(); st.GetExitCode() != told(3) {
		t.Errorf("what ended meanwhile: %v %d %s", st.GetState(), st.GetExitCode(), st.GetReason())
	}
	if got := output(readLog(t, ends.LogFile()), "stdout"); got != "ready\nlast words\n" {
		t.Errorf("its log: %q", got)
	}
	noGaps(t, counters)
	if now := s.shim(t); now == dead {
		t.Error("no other shim")
	}
	counters[1].Stop(10 * time.Second)
	if st := counters[1].Ended(); st.GetExitCode() != told(7) {
		t.Errorf("stopped after the hand-over: %d", st.GetExitCode())
	}
	counters[2].Stop(0)
	if st := counters[2].Ended(); st.GetExitCode() != told(137) {
		t.Errorf("killed after the hand-over: %d", st.GetExitCode())
	}
	if got := pods[3].start("new", "sleep 100").Sh("echo new"); got != "new\n" {
		t.Error(got)
	}
	s.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "new" }).start("new", "sleep 100").Sh("true")
}
