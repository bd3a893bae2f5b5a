package integration

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// scraped are the daemon's metrics as a monitor reads them: values by series.
type scraped map[string]float64

// scrape reads and checks the metrics at a unix socket.
func scrape(t *testing.T, socket string) scraped {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	transport := &http.Transport{DialContext: dial}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(within(t), http.MethodGet, "http://berth/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	out, all := scraped{}, make([]*dto.MetricFamily, 0, len(families))
	for name, f := range families {
		all = append(all, f)
		for _, m := range f.GetMetric() {
			out[series(name, m)] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	problems, err := promlint.NewWithMetricFamilies(all).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("metric %s: %s", p.Metric, p.Text)
	}
	return out
}

// series is a metric's name with the values of its labels, in the order of their names.
func series(name string, m *dto.Metric) string {
	var values []string
	for _, l := range m.GetLabel() {
		values = append(values, l.GetValue())
	}
	if len(values) == 0 {
		return name
	}
	return name + "{" + strings.Join(values, ",") + "}"
}

// expect compares series with the values they are to have by now.
func (s scraped) expect(t *testing.T, when string, want map[string]float64) {
	t.Helper()
	for name, v := range want {
		if got, ok := s[name]; !ok || got != v {
			t.Errorf("%s: %s is %v (present: %v), want %v", when, name, got, ok, v)
		}
	}
}

// The daemon's own metrics follow what happens to pods, images and shims.
func TestDaemonMetrics(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "metrics.sock")
	s := own(t, node.Options{Args: []string{"--metrics-address", "unix://" + socket}})
	scrape(t, socket).expect(t, "a new node", map[string]float64{
		"berth_pods{ready}": 0, "berth_containers{running}": 0, "berth_images": 0, "berth_image_layers": 0,
		"berth_container_oom_kills_total": 0, "berth_shim_replacements_total": 0, "berth_cni_operation_errors_total{add}": 0,
	})

	host, _, _ := strings.Cut(busybox, "/")
	if _, err := s.Pull(within(t), host+"/test/none:1"); err == nil {
		t.Error("an image was pulled that no registry has")
	}
	s.pull(t, busybox)
	p := s.pod(t)
	idle := p.idle("idle")
	limit := resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20})
	if st := p.start("fat", "exec "+allocate128, limit).Ended(); st.GetReason() != "OOMKilled" {
		t.Fatalf("the container that took too much memory ended with the reason %q, want OOMKilled", st.GetReason())
	}
	now := scrape(t, socket)
	now.expect(t, "a pod with a running and a killed container", map[string]float64{
		"berth_pods{ready}": 1, "berth_pods{notready}": 0, "berth_containers{running}": 1, "berth_containers{exited}": 1,
		"berth_shims": 1, "berth_images": 1, "berth_image_layers": now["berth_image_layers"],
		"berth_cri_operations_total{OK,RunPodSandbox}": 1, "berth_cri_operations_total{OK,CreateContainer}": 2,
		"berth_cri_operation_duration_seconds{StartContainer}": 2,
		"berth_cni_operation_duration_seconds{add}":            1,
		"berth_image_pulls_total{" + host + ",ok}":             1,
		"berth_image_pulls_total{" + host + ",not_found}":      1,
	})
	for _, positive := range []string{"berth_image_layers", "berth_image_store_bytes", "berth_shims_resident_memory_bytes", "berth_image_pull_bytes_total{" + host + "}"} {
		if now[positive] <= 0 {
			t.Errorf("%s is %v, want more than 0", positive, now[positive])
		}
	}
	client.Eventually(t, "the OOM kill is counted", func() bool { return scrape(t, socket)["berth_container_oom_kills_total"] == 1 })

	if err := syscall.Kill(s.shim(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	client.Eventually(t, "the shim's replacement is counted", func() bool { return scrape(t, socket)["berth_shim_replacements_total"] == 1 })
	idle.Sh("true")
	idle.Stop(0)
	p.Stop()
	scrape(t, socket).expect(t, "a stopped pod", map[string]float64{
		"berth_pods{ready}": 0, "berth_pods{notready}": 1, "berth_containers{running}": 0, "berth_containers{exited}": 2,
		"berth_cni_operation_duration_seconds{del}": 1, "berth_cri_operations_in_flight": 0,
	})
}
