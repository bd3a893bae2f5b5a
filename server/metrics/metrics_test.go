package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"berth/image"
)

// busy are instruments that every part has reported to.
func busy(t *testing.T) *Instruments {
	t.Helper()
	m := New("1.2.3")
	m.Call("RunPodSandbox", "OK", 40*time.Millisecond)
	m.Call("RunPodSandbox", "Internal", time.Second)
	m.Network("add", 30*time.Millisecond, nil)
	m.Network("del", time.Second, errors.New("plugin failed"))
	m.Pull(image.Pulled{Registry: "registry.example", Took: 2 * time.Second})
	m.Pull(image.Pulled{Registry: "registry.example", Err: fmt.Errorf("pull: %w", image.ErrNotFound)})
	m.Received("registry.example", 1000)
	m.Received("registry.example", 24)
	m.Watch(func() State {
		return State{
			Pods: map[string]int{"ready": 2, "notready": 1}, Containers: map[string]int{"running": 3}, Streams: map[string]int{"exec": 1},
			InFlight: 4, Images: 5, Layers: 6, StoreBytes: 7, StoreInodes: 8,
			Shims: Shims{Count: 1, Oldest: 9, Memory: 10, Replacements: 11}, OOMKilled: 12, SubscribersCut: 13,
		}
	})
	return m
}

func TestNamesFollowTheConventions(t *testing.T) {
	problems, err := testutil.GatherAndLint(busy(t).registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("metric %s: %s", p.Metric, p.Text)
	}
}

func TestWhatIsReportedIsServed(t *testing.T) {
	text := read(t, serve(t, busy(t)))
	for _, want := range []string{
		`berth_build_info{goversion="go`,
		`berth_cri_operations_total{code="OK",operation="RunPodSandbox"} 1`,
		`berth_cri_operations_total{code="Internal",operation="RunPodSandbox"} 1`,
		`berth_cri_operation_duration_seconds_count{operation="RunPodSandbox"} 2`,
		`berth_cri_operation_duration_seconds_bucket{operation="RunPodSandbox",le="0.05"} 1`,
		`berth_cni_operation_duration_seconds_count{operation="add"} 1`,
		`berth_cni_operation_errors_total{operation="add"} 0`,
		`berth_cni_operation_errors_total{operation="del"} 1`,
		`berth_image_pulls_total{registry="registry.example",result="ok"} 1`,
		`berth_image_pulls_total{registry="registry.example",result="not_found"} 1`,
		`berth_image_pull_duration_seconds_count{registry="registry.example"} 1`,
		`berth_image_pull_bytes_total{registry="registry.example"} 1024`,
		`berth_pods{state="ready"} 2`,
		`berth_pods{state="notready"} 1`,
		`berth_containers{state="running"} 3`,
		`berth_streams{kind="exec"} 1`,
		"berth_cri_operations_in_flight 4",
		"berth_images 5",
		"berth_image_layers 6",
		"berth_image_store_bytes 7",
		"berth_image_store_inodes 8",
		"berth_shims 1",
		"berth_shim_oldest_start_time_seconds 9",
		"berth_shims_resident_memory_bytes 10",
		"berth_shim_replacements_total 11",
		"berth_container_oom_kills_total 12",
		"berth_event_subscribers_cut_total 13",
		"go_goroutines ",
		"process_open_fds ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics lack the line %s", want)
		}
	}
}

// Whoever may create pods chooses the names of registries.
func TestAttackRegistryNames(t *testing.T) {
	m := New("1.2.3")
	for i := range 10 * maxRegistries {
		m.Pull(image.Pulled{Registry: fmt.Sprintf("host%d.example", i), Err: image.ErrNotFound})
	}
	if got := testutil.CollectAndCount(m.pulls); got != maxRegistries+1 {
		t.Errorf("pulls from %d registries made %d series, want %d", 10*maxRegistries, got, maxRegistries+1)
	}
	if got := testutil.ToFloat64(m.pulls.WithLabelValues(otherRegistries, "not_found")); got != 9*maxRegistries {
		t.Errorf("%v pulls count as those of other registries, want %d", got, 9*maxRegistries)
	}
}

func TestPullResults(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, "ok"},
		{fmt.Errorf("pull x: %w", image.ErrUnauthorized), "unauthorized"},
		{fmt.Errorf("pull x: %w", image.ErrNoSpace), "no_space"},
		{fmt.Errorf("pull x: %w", image.ErrCorrupt), "corrupt"},
		{fmt.Errorf("pull x: %w", image.ErrRefused), "refused"},
		{fmt.Errorf("pull x: %w", image.ErrSignature), "signature"},
		{fmt.Errorf("pull x: %w", image.ErrRegistryUnavailable), "unavailable"},
		{fmt.Errorf("pull x: %w", context.Canceled), "cancelled"},
		{errors.New("something else"), "error"},
	} {
		if got := pullResult(c.err); got != c.want {
			t.Errorf("a pull that ended with %v counts as %q, want %q", c.err, got, c.want)
		}
	}
}

func TestOnlyReadingIsServed(t *testing.T) {
	address := serve(t, New("1.2.3"))
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{http.MethodPost, "/metrics", http.StatusMethodNotAllowed},
		{http.MethodGet, "/", http.StatusNotFound},
		{http.MethodGet, "/debug/pprof/", http.StatusNotFound},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+address+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s %s is answered with %d, want %d", c.method, c.path, resp.StatusCode, c.want)
		}
	}
}

func serve(t *testing.T, m *Instruments) (address string) {
	t.Helper()
	s := httptest.NewServer(m.Handler())
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func read(t *testing.T, address string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET /metrics: status %d, %v", resp.StatusCode, err)
	}
	return string(body)
}
