package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// runtimeProgram finds a program of another runtime, which `make shims` builds. The test is
// skipped where it is not there.
func runtimeProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", "shims", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		if path, err = exec.LookPath(name); err != nil {
			t.Skipf("no %s in bin/shims and PATH: run make shims first", name)
		}
	}
	return path
}

// runcNode starts a node whose handler runc is containerd-shim-runc-v2 with runc, or another
// runtime with the same command line. more is added to the table.
func runcNode(t *testing.T, runtime, more string) *suite {
	t.Helper()
	table := fmt.Sprintf(`runc={type="shim.v2",shim=%q,options={BinaryName=%q}%s}`,
		runtimeProgram(t, "containerd-shim-runc-v2"), runtimeProgram(t, runtime), more)
	s := own(t, node.Options{Args: []string{"--runtime=" + table}})
	s.Handler = "runc"
	return s
}

// TestRuncShim: a pod of a handler with a foreign shim does what any pod does.
func TestRuncShim(t *testing.T) {
	for name, more := range map[string]string{"sandbox_container": "", "no_sandbox_container": ",no_sandbox_container=true"} {
		t.Run(name, func(t *testing.T) {
			s := runcNode(t, "runc", more)
			p := s.pod(t)
			c := p.Start(client.Shell("c", `echo out; echo err >&2; trap "exit 7" TERM; httpd -p 8080 -h /etc; while :; do sleep 0.1; done`))
			if got, want := httpThrough(t, s, p.ID, "8080", "/hostname"), c.Sh("cat /etc/hostname"); got != want {
				t.Errorf("through a forwarded port /etc/hostname is %q, want %q", got, want)
			}
			if got := c.Sh("cat /proc/1/comm"); got != "pause\n" { // the pod's PID namespace is that of its pause
				t.Errorf("process 1 is %q", got)
			}
			if _, err := c.Exec(within(t), c.ID, "sh", "-c", "exit 3"); err == nil || !strings.Contains(err.Error(), "ended with 3") {
				t.Errorf("an exec that exits with 3 gives %v", err)
			}
			c.Stop(10e9)
			st := c.Ended()
			if st.GetExitCode() != 7 || st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED {
				t.Errorf("status %v, want exit code 7", st)
			}
			log, err := os.ReadFile(c.LogFile())
			if err != nil || !strings.Contains(string(log), "stdout F out\n") || !strings.Contains(string(log), "stderr F err\n") {
				t.Errorf("log %q, %v", log, err)
			}
		})
	}
}

// foreignShim is the process of a pod's foreign shim.
func (p *pod) foreignShim(t *testing.T, s *suite) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.State, "pods", p.ID, "shim.json"))
	var where struct{ PID int }
	if err == nil {
		err = json.Unmarshal(data, &where)
	}
	if err != nil || where.PID <= 0 {
		t.Fatalf("process of the foreign shim: %q, %v", data, err)
	}
	return where.PID
}

// TestRuncShimKilled: the containers of a foreign shim that is killed end with it, with a
// code, and its pod is not ready; nothing is left, which the end of the node's test checks.
func TestRuncShimKilled(t *testing.T) {
	s := runcNode(t, "runc", ",no_sandbox_container=true")
	p := s.pod(t)
	c := p.Start(client.Shell("c", "exec sleep 1000"))
	if err := unix.Kill(p.foreignShim(t, s), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if st := c.Ended(); st.GetExitCode() != 137 {
		t.Errorf("status %v, want exit code 137", st)
	}
	eventually(t, "the pod is not ready", func() bool {
		return p.Status().GetState() == runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	})
}

// TestForeignProgramUninstalled: a pod whose foreign shim dies after its program was removed
// can be stopped, also with a container that had ended before. The program's own files are not
// berth's to know.
func TestForeignProgramUninstalled(t *testing.T) {
	program := filepath.Join(t.TempDir(), "containerd-shim-runc-v2")
	data, err := os.ReadFile(runtimeProgram(t, filepath.Base(program)))
	if err == nil {
		err = os.WriteFile(program, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := own(t, node.Options{Args: []string{fmt.Sprintf(`--runtime=runc={type="shim.v2",shim=%q,options={BinaryName=%q}}`, program, runtimeProgram(t, "runc"))}})
	s.Handler = "runc"
	p := s.pod(t)
	c := p.Start(client.Shell("c", "exec sleep 1000"))
	pid := (&ctr{Container: c, p: p}).hostPID()
	p.Start(client.Shell("ended", "exit 3")).Ended()
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(p.foreignShim(t, s), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod is not ready", func() bool {
		return p.Status().GetState() == runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	})
	if st := c.Ended(); st.GetExitCode() != 255 || st.GetReason() != "ContainerStatusUnknown" {
		t.Errorf("status %v, want one that is not known", st)
	}
	p.End()
	if err := unix.Kill(pid, 0); err == nil {
		t.Errorf("process %d of the container runs on", pid)
	}
	if err := os.RemoveAll(filepath.Join(s.State, "runc", "k8s.io")); err != nil {
		t.Error(err)
	}
}

// TestRuncDaemonKilled: with a foreign shim a pod outlives the daemon, the shim of ours that
// drives the other, or both: of the last only what is left is ended.
func TestRuncDaemonKilled(t *testing.T) {
	s := runcNode(t, "runc", "")
	p := s.pod(t)
	c := p.Start(client.Shell("c", "trap 'exit 7' TERM; "+client.Counter))
	grows := func() { (&ctr{Container: c}).grows(t) }
	grows()
	if err := unix.Kill(s.shim(t), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	grows()
	if got := c.Sh("echo hello"); got != "hello\n" {
		t.Errorf("an exec after the death of the shim says %q", got)
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.resubscribe(t)
	grows()
	c.Stop(10 * time.Second)
	if st := c.Ended(); st.GetExitCode() != 7 {
		t.Errorf("status %v, want exit code 7", st)
	}
	second := p.Start(client.Shell("d", "exec sleep 1000"))
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(s.shim(t), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.resubscribe(t)
	// No event: it was ended before anybody could subscribe.
	if st := second.Status(); st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || st.GetExitCode() != 255 && st.GetExitCode() != 137 {
		t.Errorf("status %v, want an exit code that tells of a kill", st)
	}
}

// TestSandboxImage: the image of a sandbox container is pulled for the first pod, kept from the
// kubelet's collection, and its process stands for the pod; one that is not to be had refuses
// the pod with the key to change.
func TestSandboxImage(t *testing.T) {
	s := runcNode(t, "runc", fmt.Sprintf(",sandbox_image=%q", nginx))
	image := func() *runtimeapi.Image {
		answer, err := s.Images.ImageStatus(within(t), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: nginx}})
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetImage()
	}
	if image() != nil {
		t.Fatal("the image is there before any pod")
	}
	s.pod(t)
	if img := image(); img == nil || !img.GetPinned() {
		t.Errorf("image %v, want it pinned", img)
	}
	none := runcNode(t, "runc", `,sandbox_image="registry.k8s.io/none-such:1"`)
	_, err := none.RunPod(within(t), none.podConfig(t))
	if err == nil || !strings.Contains(err.Error(), `handler "runc"`) || !strings.Contains(err.Error(), "runtime.runc.sandbox_image") {
		t.Errorf("error %v", err)
	}
}
