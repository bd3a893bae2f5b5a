package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
	"berth/test/program"
)

// hanging is what is tried while a foreign shim does not answer one call of the task API.
type hanging struct {
	*suite
	pod *pod
	ctr string // "" when Create is that call
}

// tried are the calls of the task API. Each has what meets it, which must fail or not within
// a bound; that does nothing where only the end of the pod meets it.
var tried = map[string]struct {
	fails bool
	bound time.Duration
	do    func(context.Context, hanging) error
}{
	"Create": {},
	"Start":  {},
	"Kill": {true, 25 * time.Second, func(ctx context.Context, h hanging) error { // the signal, then SIGKILL, which ends the shim
		_, err := h.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: h.ctr, Timeout: 1})
		if err == nil {
			err = errIsKilled
		}
		return err
	}},
	"Delete": {},
	"Exec": {true, 11 * time.Second, func(ctx context.Context, h hanging) error {
		_, err := h.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: h.ctr, Cmd: []string{"true"}, Timeout: 1})
		return err
	}},
	"Wait":  {},
	"State": {},
	"Stats": {false, 3 * time.Second, func(ctx context.Context, h hanging) error {
		_, err := h.Runtime.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: h.ctr})
		return err
	}},
	"Update": {true, 10 * time.Second, func(ctx context.Context, h hanging) error {
		_, err := h.Runtime.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{
			ContainerId: h.ctr, Linux: &runtimeapi.LinuxContainerResources{CpuShares: 100},
		})
		return err
	}},
}

var errIsKilled = errors.New("the container was stopped")

// load is what a bound is extended by on a busy machine.
const load = 15 * time.Second

// TestCallsThatHang: a foreign shim that never answers one call of the task API holds that call
// and its own pod for a bounded time, and nothing else; its pod can be stopped and removed.
func TestCallsThatHang(t *testing.T) {
	dir := t.TempDir()
	built := filepath.Join(dir, "hostileshim")
	if err := program.Build("test/hostileshim", built); err != nil {
		t.Fatal(err)
	}
	var args []string
	for call := range tried {
		path := filepath.Join(dir, "shim-silent-"+call)
		if err := os.Symlink(built, path); err != nil {
			t.Fatal(err)
		}
		args = append(args, fmt.Sprintf(`--runtime=%c%s={type="shim.v2",shim=%q,no_sandbox_container=true}`, call[0]|0x20, call[1:], path))
	}
	s := own(t, node.Options{Args: args})
	s.pull(t, busybox)
	other := s.pod(t).Start(client.Shell("other", "exec sleep 1000"))
	t.Run("calls", func(t *testing.T) { // all at the same time
		for call, c := range tried {
			t.Run(call, func(t *testing.T) {
				t.Parallel()
				h, pending := s.hang(t, call)
				if c.do != nil {
					inTime(t, call, c.bound, c.fails, func(ctx context.Context) error { return c.do(ctx, h) })
				}
				inTime(t, "a list", time.Second, false, func(ctx context.Context) error {
					_, err := s.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
					return err
				})
				inTime(t, "the status of the node", time.Second, false, func(ctx context.Context) error {
					_, err := s.Runtime.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
					return err
				})
				inTime(t, "an exec in another pod", 5*time.Second, false, func(ctx context.Context) error {
					_, err := s.Exec(ctx, other.ID, "true")
					return err
				})
				// A container that the shim does not forget is told of; the kubelet tries again.
				inTime(t, "the pod's stop", 40*time.Second, call == "Delete", func(ctx context.Context) error { return s.StopPod(ctx, h.pod.ID) })
				if err := <-pending; (err == nil) != (call != "Create" && call != "Start") {
					t.Errorf("the call that hangs has the error %v once the pod is stopped", err)
				}
				inTime(t, "the pod's removal", 10*time.Second, false, func(ctx context.Context) error { return s.RemovePod(ctx, h.pod.ID) })
			})
		}
	})
}

// hang makes a pod with a container of the shim that does not answer a call. pending gives
// the error of the one that hangs, nil where that is another than Create or Start.
func (s *suite) hang(t *testing.T, call string) (h hanging, pending chan error) {
	t.Helper()
	config := s.podConfig(t)
	handler := fmt.Sprintf("%c%s", call[0]|0x20, call[1:])
	made, err := s.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	if err != nil {
		t.Fatal(err)
	}
	h = hanging{suite: s, pod: s.podOf(t, made.GetPodSandboxId(), config)}
	pending = make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	t.Cleanup(cancel)
	request := h.pod.Request(client.Shell("c", "exec sleep 1000"))
	if call == "Create" {
		go func() {
			_, err := s.Runtime.CreateContainer(ctx, request)
			pending <- err
		}()
		eventually(t, "the shim is to create it", func() bool {
			dirs := globbed(t, filepath.Join(s.Root, "pods", h.pod.ID, "containers", "*"))
			return len(dirs) > 0 && len(globbed(t, filepath.Join(s.State, "containers", filepath.Base(dirs[0]), "config.json"))) > 0
		})
		return h, pending
	}
	created, err := s.Runtime.CreateContainer(within(t), request)
	if err != nil {
		t.Fatal(err)
	}
	h.ctr = created.GetContainerId()
	start := func() error {
		_, err := s.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: h.ctr})
		return err
	}
	if call == "Start" {
		go func() { pending <- start() }()
		return h, pending
	}
	pending <- nil
	if err := start(); err != nil {
		t.Fatal(err)
	}
	return h, pending
}

func globbed(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// inTime wants something done, or failed, within a bound.
func inTime(t *testing.T, what string, bound time.Duration, fails bool, do func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound+load+time.Minute)
	defer cancel()
	began := time.Now()
	err := do(ctx)
	took := time.Since(began)
	if took > bound+load || (err != nil) != fails {
		t.Errorf("%s: error %v after %v, want it within %v, failed: %t", what, err, took.Round(time.Millisecond), bound, fails)
	}
	t.Logf("%s took %v: %v", what, took.Round(time.Millisecond), err)
}
