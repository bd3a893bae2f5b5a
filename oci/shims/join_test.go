package shims

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// TestJoinsNoStranger gives the number of a pause that has ended to another
// process, whose namespaces a container must not get.
func TestJoinsNoStranger(t *testing.T) {
	n := newShimNode(t)
	for _, who := range []string{"own", "adopted"} {
		t.Run(who, func(t *testing.T) {
			pod := n.pod()
			if who == "adopted" {
				n.killShim()
			}
			r := n.request(pod, "sleep 1000")
			pause := n.podRecord(pod).PID
			if err := unix.Kill(pause, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			n.seen.await(t, shimapi.EventPodExited, pod)
			stranger(t, pause)
			if err := n.shim.StopPod(n.ctx, pod); err != nil { // no replacement adopts a pod that has ended
				t.Error(err)
			}
			_, err := n.shim.Create(n.ctx, r)
			if kindOfError(err) != shimapi.KindNotRunning {
				t.Errorf("create: %v", err)
			}
			if onDisk(filepath.Join(n.config.StateDir, "shims", n.shim.ID(), "state", r.ID)) {
				t.Error("libcontainer's state is left")
			}
		})
	}
	pod, other := n.pod(), n.pod()
	r := n.request(pod, "true")
	r.Pod = other
	if _, err := n.shim.Create(n.ctx, r); kindOfError(err) != shimapi.KindNotRunning {
		t.Errorf("a container of another pod: %v", err)
	}
}

// stranger starts a process with a number that is free, or about to be.
func stranger(t *testing.T, pid int) {
	t.Helper()
	eventually(t, "the number is free", func() bool { return !onDisk(fmt.Sprintf("/proc/%d", pid)) })
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
