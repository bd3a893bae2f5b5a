package shim_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/test/shimnode"
)

// TestJoinsNoStranger gives the PID of a pause process that has ended to another process. A
// container must not join the namespaces of that process.
func TestJoinsNoStranger(t *testing.T) {
	n := shimnode.New(t)
	for _, who := range []string{"own", "adopted"} {
		t.Run(who, func(t *testing.T) {
			pod := n.Pod()
			if who == "adopted" {
				n.KillShim()
			}
			r := n.Request(pod, "sleep 1000")
			pause := n.PodRecord(pod).PID
			if err := unix.Kill(pause, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			n.Seen.Await(t, shimapi.EventPodExited, pod)
			stranger(t, pause)
			if err := n.Shim.StopPod(n.Ctx, pod); err != nil { // no replacement adopts a pod that has ended
				t.Error(err)
			}
			_, err := n.Shim.Create(n.Ctx, r)
			if shimnode.KindOfError(err) != shimapi.KindNotRunning {
				t.Errorf("create: %v", err)
			}
			if shimnode.OnDisk(filepath.Join(n.Config.StateDir, "shims", n.Shim.ID(), "state", r.ID)) {
				t.Error("libcontainer's state is left")
			}
		})
	}
	pod, other := n.Pod(), n.Pod()
	r := n.Request(pod, "true")
	r.Pod = other
	if _, err := n.Shim.Create(n.Ctx, r); shimnode.KindOfError(err) != shimapi.KindNotRunning {
		t.Errorf("a container of another pod: %v", err)
	}
}

// stranger starts a process with this PID once it is free.
func stranger(t *testing.T, pid int) {
	t.Helper()
	shimnode.Eventually(t, "the number is free", func() bool { return !shimnode.OnDisk(fmt.Sprintf("/proc/%d", pid)) })
	for range 200 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			t.Skip(err)
		}
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		end := func() { _ = cmd.Process.Kill(); _ = cmd.Wait() } // as killed
		if cmd.Process.Pid == pid {
			t.Cleanup(end)
			return
		}
		end()
	}
	t.Skip("others were given the number")
}
