package integration

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
	"berth/test/registry"
)

// S18: the client gives up at any moment of a call and retries. Clients that are
// cancelled or die at one known point, and what the daemon tells them, are in
// test/crash (TestRetried…), clients side by side in [TestRetryGetsTheSamePod]
// and [TestPullFetchesOnce]; here the moment moves through the whole call, and
// what there is afterwards is counted in the kernel, on disk and at the registry.
func TestS18Retry(t *testing.T) {
	s := own(t, node.Options{Tmpfs: true})
	s.pull(t, busybox)
	s.pod(t, named("first")) // the shim is there
	t.Run("RunPodSandbox", func(t *testing.T) { s18Run(t, s) })
	t.Run("CreateContainer", func(t *testing.T) { s18Create(t, s) })
	t.Run("PullImage", func(t *testing.T) { s18Pull(t, s) })
}

const (
	// leaveSteps is at how many moments a client leaves; the last ones are later
	// than a call takes on a machine with nothing else to do.
	leaveSteps = 16
	leaveStep  = 5 * time.Millisecond
)

// abandon makes a call whose client leaves after a while, and makes it again
// twice; the answers are one.
func abandon(t *testing.T, after time.Duration, call func(context.Context) (string, error)) (id string, left bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), after)
	defer cancel()
	first, err := call(ctx)
	if left = err != nil; left && status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("after %v the client that left hears %v", after, err)
	}
	for range 2 {
		if id, err = call(within(t)); err != nil {
			t.Fatalf("the retry of a call left after %v: %v", after, err)
		}
		if first == "" {
			first = id
		}
		if id != first {
			t.Errorf("retries of a call left after %v give %s and %s", after, first, id)
		}
	}
	return id, left
}

// possessions counts what pods and containers have on the machine.
func (s *suite) possessions(t *testing.T) map[string]int {
	t.Helper()
	out := map[string]int{}
	for name, pattern := range map[string]string{
		"pod records":       s.Root + "/pods/*",
		"container records": s.Root + "/pods/*/containers/*",
		"pod states":        s.State + "/pods/*",
		"roots":             s.State + "/containers/*",
		"bridge ports":      "/sys/class/net/" + s.Bridge + "/brif/*",
		"leases":            s.Dir + "/leases/*/[0-9]*",
		"shims":             s.State + "/shims/*",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = len(found)
	}
	shim := s.shim(t)
	tasks, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(shim), "task/*/children"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range tasks {
		children, _ := os.ReadFile(file) // a thread that has ended has none
		out["processes"] += len(strings.Fields(string(children)))
	}
	out["mounts"] = strings.Count(procFile(t, os.Getpid(), "mountinfo"), " "+s.Dir+"/")
	return out
}

// s18Run: whenever the client leaves, there is one pod.
func s18Run(t *testing.T, s *suite) {
	before, lefts := s.possessions(t), 0
	var one map[string]int
	for i := range leaveSteps {
		config := s.podConfig(t)
		config.Metadata.Name += fmt.Sprint(i)
		id, left := abandon(t, time.Duration(i)*leaveStep+time.Millisecond, func(ctx context.Context) (string, error) {
			r, err := s.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
			return r.GetPodSandboxId(), err
		})
		if left {
			lefts++
		}
		if n := len(podsOf(t, s, config.GetLabels()["test"])); n != 1 {
			t.Errorf("%d pods are listed", n)
		}
		now := s.possessions(t)
		if one == nil {
			one = now
		}
		if now["pod records"] != before["pod records"]+1 || now["bridge ports"] != before["bridge ports"]+1 ||
			now["leases"] != before["leases"]+1 || now["processes"] != before["processes"]+1 {
			t.Errorf("before: %v, with one pod: %v", before, now)
		}
		if diff := cmp.Diff(one, now); diff != "" {
			t.Errorf("what one pod has differs: %s", diff)
		}
		p := s.podOf(t, id, config)
		p.End()
		if diff := cmp.Diff(before, s.possessions(t)); diff != "" {
			t.Fatalf("after the pod was removed: %s", diff)
		}
	}
	someLeft(t, lefts)
}

func someLeft(t *testing.T, lefts int) {
	t.Helper()
	t.Logf("of %d clients %d left before the call was over", leaveSteps, lefts)
	if lefts == 0 {
		t.Error("no client left in the middle")
	}
}

// s18Create: whenever the client leaves, there is one container, and it can run.
func s18Create(t *testing.T, s *suite) {
	p := s.pod(t)
	before, lefts := s.possessions(t), 0
	for i := range leaveSteps {
		config := client.Shell(fmt.Sprint("c", i), "exit 3")
		req := &runtimeapi.CreateContainerRequest{PodSandboxId: p.ID, Config: config, SandboxConfig: p.Config}
		id, left := abandon(t, time.Duration(i)*leaveStep/2+time.Millisecond, func(ctx context.Context) (string, error) {
			r, err := s.Runtime.CreateContainer(ctx, req)
			return r.GetContainerId(), err
		})
		if left {
			lefts++
		}
		now := s.possessions(t)
		for _, what := range []string{"container records", "roots", "processes", "mounts"} {
			if now[what] != before[what]+1 {
				t.Errorf("%s: before %d, with one container %d", what, before[what], now[what])
			}
		}
		c := p.ctr(id)
		if err := c.TryStart(); err != nil {
			t.Fatal(err)
		}
		if st := c.Ended(); st.GetExitCode() != 3 {
			t.Errorf("it ended with %d", st.GetExitCode())
		}
		if _, err := s.Runtime.RemoveContainer(within(t), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, s.possessions(t)); diff != "" {
			t.Fatalf("after the container was removed: %s", diff)
		}
	}
	someLeft(t, lefts)
}

// downloads counts what is fetched, and holds one request for each test.
type downloads struct {
	mu      sync.Mutex
	counts  map[string]int // by path
	nth     int            // the request that is held
	reached chan struct{}
	release chan struct{}
}

func (d *downloads) wrap(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && r.URL.Path != "/v2/" {
			d.mu.Lock()
			d.counts[r.URL.Path]++
			d.nth--
			held := d.nth == 0
			d.mu.Unlock()
			if held {
				close(d.reached)
				<-d.release
			}
		}
		inner.ServeHTTP(w, r)
	})
}

// s18Pull: whichever request the client leaves at, each blob is fetched once.
func s18Pull(t *testing.T, s *suite) {
	const ref = "docker.io/test/retried:v1"
	var list []v1.Layer
	for i := range 3 {
		l, err := registry.Layer(registry.File{Path: fmt.Sprint("/file-", i), Mode: 0o644, Data: []byte(t.Name())})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, l)
	}
	img, err := registry.Build(v1.Config{}, list...)
	if err == nil {
		err = images.Push(ref, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	stored := func() int {
		found, _ := filepath.Glob(filepath.Join(s.Root, "layers", "*"))
		return len(found)
	}
	before := stored()
	const requests = 5 // a manifest, a config and three layers
	for nth := 1; nth <= requests; nth++ {
		d := &downloads{counts: map[string]int{}, nth: nth, reached: make(chan struct{}), release: make(chan struct{})}
		unwrap := images.Wrap(d.wrap)
		s18Leave(t, s, ref, d)
		unwrap()
		blobs := 0
		for path, n := range d.counts {
			if strings.Contains(path, "/blobs/") {
				blobs++
				if n != 1 {
					t.Errorf("left at request %d: %s was fetched %d times", nth, path, n)
				}
			}
		}
		if blobs != requests-1 {
			t.Errorf("left at request %d: %v were fetched", nth, d.counts)
		}
		if n := stored() - before; n != len(list) {
			t.Errorf("left at request %d: %d layers are on disk, want %d", nth, n, len(list))
		}
		s.removeImage(t, ref)
		if n := stored() - before; n != 0 {
			t.Errorf("with the image removed %d layers are on disk", n)
		}
	}
}

// s18Leave leaves a pull at the request that is held and retries it.
func s18Leave(t *testing.T, s *suite, ref string, d *downloads) {
	t.Helper()
	req := &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}}
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- func() error { _, err := s.Images.PullImage(ctx, req); return err }() }()
	select {
	case <-d.reached:
	case err := <-first:
		t.Fatalf("the pull was over before request %d: %v", d.nth, err)
	}
	cancel()
	wantCode(t, "the client that left", <-first, codes.Canceled)
	var id string
	go func() {
		r, err := s.Images.PullImage(within(t), req)
		id = r.GetImageRef()
		second <- err
	}()
	close(d.release)
	if err := <-second; err != nil {
		t.Fatalf("the retry: %v", err)
	}
	if got := s.imageStatus(t, ref).GetId(); got != id || id == "" {
		t.Errorf("the retry gave %q, there is %q", id, got)
	}
}
