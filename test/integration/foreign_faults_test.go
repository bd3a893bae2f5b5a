package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
	"berth/test/program"
)

// writeProgram puts a script at a path.
func writeProgram(t *testing.T, path, script string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestHandlersAtFault: a shim's program that is missing, hangs or prints nonsense keeps
// neither the daemon nor pods of other handlers from running; the error of a pod of its own
// handler names the handler and the program. One that appears later is used.
func TestHandlersAtFault(t *testing.T) {
	dir := t.TempDir()
	args := []string{fmt.Sprintf(`--runtime=later={type="shim.v2",shim=%q,no_sandbox_container=true,options={BinaryName=%q}}`,
		filepath.Join(dir, "containerd-shim-runc-v2"), runtimeProgram(t, "runc"))}
	for name, script := range map[string]string{
		"hangs": "sleep 1000", "garbage": "echo garbage", "floods": "exec yes", "fails": "echo no reason >&2; exit 1", "missing": "",
	} {
		path := filepath.Join(dir, "shim-"+name)
		if script != "" {
			writeProgram(t, path, script)
		}
		args = append(args, fmt.Sprintf(`--runtime=%s={type="shim.v2",shim=%q}`, name, path))
	}
	began := time.Now()
	s := own(t, node.Options{Args: args})
	if took := time.Since(began); took > client.Bound(8*time.Second) { // one question takes up to ten
		t.Errorf("the daemon was ready after %v", took)
	}
	if known := s.handlerFeatures(t); len(known) != 7 || known["hangs"] != nil || known["missing"] != nil || known[""] == nil {
		t.Errorf("handlers %v", known)
	}
	for name, wants := range map[string][]string{
		"hangs": {"did not answer within 10s", "runtime.hangs.shim"}, "missing": {"no such file", "runtime.missing.shim"},
		"garbage": {"does not tell where it serves", `"garbage`}, "floods": {"prints more than 64 KiB"}, "fails": {"no reason"}, "later": {"no such file"},
	} {
		_, err := s.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: s.podConfig(t), RuntimeHandler: name})
		shim := "shim-" + name
		if name == "later" {
			shim = "containerd-shim-runc-v2"
		}
		for _, want := range append(wants, fmt.Sprintf("handler %q", name), filepath.Join(dir, shim)) {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want %q in it", name, err, want)
			}
		}
	}
	if err := os.Symlink(runtimeProgram(t, "containerd-shim-runc-v2"), filepath.Join(dir, "containerd-shim-runc-v2")); err != nil {
		t.Fatal(err)
	}
	s.Handler = "later"
	p := s.pod(t)
	if got := p.Start(client.Shell("c", "exec sleep 1000")).Sh("echo hello"); got != "hello\n" {
		t.Errorf("a pod of the handler whose program came later says %q", got)
	}
	eventually(t, "its features are announced", func() bool { return s.handlerFeatures(t)["later"] != nil })
}

// handlerFeatures are what Status announces of each runtime handler.
func (s *suite) handlerFeatures(t *testing.T) map[string]*runtimeapi.RuntimeHandlerFeatures {
	t.Helper()
	answer, err := s.Runtime.Status(within(t), &runtimeapi.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*runtimeapi.RuntimeHandlerFeatures{}
	for _, h := range answer.GetRuntimeHandlers() {
		all[h.GetName()] = h.GetFeatures()
	}
	return all
}

// TestShimThatDoesNotAnswer: a foreign shim that answers nothing more once its container runs
// holds up no other pod, no list and no statistics; when the container is killed the shim is,
// and its pod goes with all that it had.
func TestShimThatDoesNotAnswer(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "shim-stuck")
	if err := program.Build("test/hostileshim", path); err != nil {
		t.Fatal(err)
	}
	s := own(t, node.Options{Args: []string{
		fmt.Sprintf(`--runtime=stuck={type="shim.v2",shim=%q,no_sandbox_container=true}`, path), `--runtime=plain={type="builtin"}`,
	}})
	s.Handler = "stuck"
	p := s.pod(t)
	c := p.Start(client.Shell("c", "exec sleep 1000"))
	s.Handler = "plain"
	other := s.pod(t).Start(client.Shell("other", "exec sleep 1000"))
	for range 3 {
		began := time.Now()
		stats, err := s.Runtime.ListContainerStats(within(t), &runtimeapi.ListContainerStatsRequest{})
		if err != nil || len(stats.GetStats()) != 2 || time.Since(began) > client.Bound(5*time.Second) {
			t.Errorf("statistics %v, %v after %v", stats, err, time.Since(began))
		}
	}
	soon, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := s.Exec(soon, c.ID, "true"); err == nil {
		t.Error("an exec in a container of the shim works")
	}
	stopped := make(chan error, 1)
	began := time.Now()
	long, cancelStop := context.WithTimeout(t.Context(), time.Minute) // the shim gets some time to answer
	defer cancelStop()
	go func() { stopped <- s.StopPod(long, p.ID) }()
	if got := other.Sh("echo hello"); got != "hello\n" {
		t.Errorf("another pod says %q", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	t.Logf("the pod was stopped after %v", time.Since(began).Round(time.Millisecond))
	if st := c.Status(); st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || st.GetExitCode() != 137 {
		t.Errorf("status %v, want exit code 137", st)
	}
	if err := s.RemovePod(within(t), p.ID); err != nil {
		t.Error(err)
	}
}
