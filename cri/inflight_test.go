package cri

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
)

// gate holds a verb up until it is opened, and says when one has arrived.
type gate struct {
	arrived chan struct{}
	open    chan struct{}
}

func newGate() gate { return gate{make(chan struct{}, 8), make(chan struct{})} }

func (g gate) hook(ctx context.Context, _ string) error {
	g.arrived <- struct{}{}
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func TestARetryJoinsTheCallItsClientGaveUp(t *testing.T) {
	f, g := newFake(), newGate()
	f.hook = g.hook
	_, conn := serve(t, options(f))
	client := runtimeapi.NewRuntimeServiceClient(conn)
	req := &runtimeapi.RunPodSandboxRequest{Config: podConfig("a")}

	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-g.arrived; cancel() }()
	if _, err := client.RunPodSandbox(ctx, req); status.Code(err) != codes.Canceled {
		t.Fatalf("first call: %v", err)
	}
	other := podConfig("a")
	other.Hostname = "differs"
	if _, err := client.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: other}); status.Code(err) != codes.Aborted {
		t.Errorf("same name, other configuration: %v", err)
	}
	answers := make(chan string, 2)
	for range cap(answers) {
		go func() {
			resp, err := client.RunPodSandbox(context.Background(), req)
			if err != nil {
				t.Error(err)
			}
			answers <- resp.GetPodSandboxId()
		}()
	}
	close(g.open)
	if a, b := <-answers, <-answers; a == "" || a != b {
		t.Errorf("retries got %q and %q", a, b)
	}
	if n := f.count("RunPod"); n != 1 {
		t.Errorf("RunPod ran %d times", n)
	}
}

func TestALateRetryGetsThePodUntilItIsUsed(t *testing.T) {
	f := newFake()
	s, conn := serve(t, options(f))
	client := runtimeapi.NewRuntimeServiceClient(conn)
	req := &runtimeapi.RunPodSandboxRequest{Config: podConfig("a")}
	run := func() (string, codes.Code) {
		resp, err := client.RunPodSandbox(t.Context(), req)
		return resp.GetPodSandboxId(), status.Code(err)
	}
	id, code := run()
	if code != codes.OK {
		t.Fatal(code)
	}
	if again, code := run(); again != id || code != codes.OK {
		t.Errorf("retry of a lost answer: %q, %v", again, code)
	}

	create := &runtimeapi.CreateContainerRequest{PodSandboxId: id, Config: containerConfig("c"), SandboxConfig: req.GetConfig()}
	made, err := client.CreateContainer(t.Context(), create)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := client.CreateContainer(t.Context(), create); err != nil || again.GetContainerId() != made.GetContainerId() {
		t.Errorf("retry of create: %v, %v", again, err)
	}
	if _, code := run(); code != codes.AlreadyExists {
		t.Errorf("run of a pod in use: %v", code)
	}
	if _, err := client.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: made.GetContainerId()}); err != nil {
		t.Fatal(err)
	}
	_, err = client.CreateContainer(t.Context(), create)
	if status.Code(err) != codes.AlreadyExists || !strings.Contains(err.Error(), made.GetContainerId()) {
		t.Errorf("create of a container that runs: %v", err)
	}
	if f.count("RunPod") != 1 || f.count("CreateContainer") != 1 {
		t.Errorf("calls: %v", f.calls)
	}
	if keys := s.flights.keys(); len(keys) != 0 {
		t.Errorf("left in flight: %v", keys)
	}
}

func TestAStoppedPodKeepsItsName(t *testing.T) {
	f := newFake()
	f.pods = []*sandbox.PodStatus{{ID: "p", Config: podConfig("a"), State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY}}
	_, conn := serve(t, options(f))
	client := runtimeapi.NewRuntimeServiceClient(conn)
	req := &runtimeapi.RunPodSandboxRequest{Config: podConfig("a")}
	if _, err := client.RunPodSandbox(t.Context(), req); status.Code(err) != codes.AlreadyExists {
		t.Error(err)
	}
	req.Config.Metadata.Attempt = 1
	if _, err := client.RunPodSandbox(t.Context(), req); err != nil {
		t.Error(err)
	}
}

func TestAFailedCallIsTriedAgain(t *testing.T) {
	f := newFake()
	f.hook = func(context.Context, string) error { return errors.New("once") }
	_, conn := serve(t, options(f))
	client := runtimeapi.NewRuntimeServiceClient(conn)
	req := &runtimeapi.RunPodSandboxRequest{Config: podConfig("a")}
	if _, err := client.RunPodSandbox(t.Context(), req); status.Code(err) != codes.Unknown {
		t.Fatal(err)
	}
	f.hook = nil
	if _, err := client.RunPodSandbox(t.Context(), req); err != nil {
		t.Error(err)
	}
}

func TestPullsOfOneImageAreOne(t *testing.T) {
	f, g := newFake(), newGate()
	f.hook = g.hook
	_, conn := serve(t, options(f))
	client := runtimeapi.NewImageServiceClient(conn)
	pull := func(ctx context.Context, password, pod string) error {
		_, err := client.PullImage(ctx, &runtimeapi.PullImageRequest{
			Image: &runtimeapi.ImageSpec{Image: "busybox"}, SandboxConfig: podConfig(pod),
			Auth: &runtimeapi.AuthConfig{Username: "u", Password: password},
		})
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := pull(ctx, "x", "a"); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("pull that times out: %v", err)
	}
	done := make(chan error, 3)
	for range 2 {
		go func() { done <- pull(context.Background(), "x", "b") }()
	}
	<-g.arrived
	go func() { done <- pull(context.Background(), "other", "a") }()
	<-g.arrived // other credentials are another pull
	close(g.open)
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestAttackAbandonedPull: a client asks for an image that never comes and goes away.
// Within the grace a retry joins the one pull; without a client it is cancelled.
func TestAttackAbandonedPull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlights()
		var began atomic.Int32
		cancelled := make(chan time.Time, 1)
		hang := func(ctx context.Context) (string, error) {
			began.Add(1)
			<-ctx.Done()
			cancelled <- time.Now()
			time.Sleep(time.Second) // to undo what it had begun
			return "", context.Cause(ctx)
		}
		giveUp := func(after time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			if _, err := f.do(ctx, "pull", "", pullGrace, hang); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the client that gave up hears %v", err)
			}
		}
		giveUp(time.Second)
		time.Sleep(pullGrace - time.Second)
		giveUp(5 * time.Minute) // the retry; it has as long as it likes
		left := time.Now()
		if n := began.Load(); n != 1 {
			t.Errorf("the retry began pull %d", n)
		}
		if at := <-cancelled; at.Sub(left) != pullGrace {
			t.Errorf("cancelled %v after the last client left", at.Sub(left))
		}
		again := func(context.Context) (string, error) { return "image", nil }
		if id, err := f.do(t.Context(), "pull", "", pullGrace, again); id != "image" || err != nil {
			t.Errorf("a client that came while it was cancelled got %q, %v", id, err)
		}
		if err := f.drain(t.Context()); err != nil || len(f.keys()) != 0 {
			t.Errorf("left in flight: %v, %v", f.keys(), err)
		}
	})
}

func TestStopsWithDifferentGraceOverlap(t *testing.T) {
	f, g := newFake(), newGate()
	f.hook = g.hook
	_, conn := serve(t, options(f))
	client := runtimeapi.NewRuntimeServiceClient(conn)
	done := make(chan error, 2)
	for _, grace := range []int64{30, 1} {
		go func() {
			_, err := client.StopContainer(context.Background(), &runtimeapi.StopContainerRequest{ContainerId: "c", Timeout: grace})
			done <- err
		}()
	}
	<-g.arrived
	<-g.arrived
	close(g.open)
	if err := errors.Join(<-done, <-done); err != nil {
		t.Error(err)
	}
}

func TestDrainWaitsThenCancels(t *testing.T) {
	f, g := newFake(), newGate()
	f.hook = g.hook
	s, conn := serve(t, options(f))
	client := runtimeapi.NewRuntimeServiceClient(conn)
	done := make(chan error, 1)
	go func() {
		_, err := client.StopPodSandbox(context.Background(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: "p"})
		done <- err
	}()
	<-g.arrived
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Drain(ctx); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "StopPodSandbox of p") {
		t.Errorf("drain: %v", err)
	}
	if err := <-done; !strings.Contains(err.Error(), errStopping.Error()) {
		t.Errorf("the call that was cut: %v", err)
	}
	if _, err := client.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: "p"}); status.Code(err) != codes.Unavailable {
		t.Errorf("a call after drain: %v", err)
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestDrainWaitsForWhatItCutShort: a call that was cancelled still undoes what it
// had begun, with parts of the daemon that are closed after drain.
func TestDrainWaitsForWhatItCutShort(t *testing.T) {
	for name, undone := range map[string]time.Duration{"in time": undoPatience / 2, "too late": 2 * undoPatience} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFlights()
				go func() {
					_, _ = f.do(t.Context(), "run", "", 0, func(ctx context.Context) (string, error) {
						<-ctx.Done()
						time.Sleep(undone)
						return "", context.Cause(ctx)
					})
				}()
				synctest.Wait()
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				began := time.Now()
				err := f.drain(ctx)
				left := f.keys()
				if !errors.Is(err, context.Canceled) || time.Since(began) != min(undone, undoPatience) {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
				if late := undone > undoPatience; late != (len(left) > 0) || late != strings.Contains(err.Error(), "later there are still run") {
					t.Errorf("left in flight: %v; %v", left, err)
				}
				time.Sleep(undone) // it lands
			})
		})
	}
}

func TestDrainOfAnIdleServer(t *testing.T) {
	s, _ := serve(t, options(newFake()))
	if err := s.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}
