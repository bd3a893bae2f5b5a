package metrics

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"berth/image"
)

// maxRegistries is how many registries have series of their own. Names of images are
// chosen by whoever may create pods; without a bound each new host name would stay in
// memory and in the monitoring system.
const maxRegistries = 64

// otherRegistries is the label of the registries beyond [maxRegistries].
const otherRegistries = "other"

// callBuckets are upper bounds in seconds: from a list served from memory to a stop with
// a grace period.
var callBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 120}

// pullBuckets are upper bounds in seconds: from an image that is there to gigabytes.
var pullBuckets = []float64{.01, .05, .1, .5, 1, 5, 10, 30, 60, 120, 300, 600}

// Instruments are the daemon's metrics. Its methods may be called concurrently.
type Instruments struct {
	registry *prometheus.Registry

	calls        *prometheus.CounterVec
	callSeconds  *prometheus.HistogramVec
	network      *prometheus.HistogramVec
	networkFails *prometheus.CounterVec
	pulls        *prometheus.CounterVec
	pullSeconds  *prometheus.HistogramVec
	pullBytes    *prometheus.CounterVec

	mu         sync.Mutex
	registries map[string]bool
}

// New makes the instruments of a daemon of this version. Beside berth's own they have
// the Go runtime's and the process's metrics.
func New(version string) *Instruments {
	m := &Instruments{registry: prometheus.NewRegistry(), registries: map[string]bool{}}
	m.calls = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_cri_operations_total", Help: "CRI calls that have ended, by method and gRPC code.",
	}, []string{"operation", "code"})
	m.callSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "berth_cri_operation_duration_seconds", Help: "Duration of CRI calls, failed ones included.", Buckets: callBuckets,
	}, []string{"operation"})
	m.network = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "berth_cni_operation_duration_seconds", Help: "Duration of attaching a pod to its network (add) and detaching it (del), over all plugins.", Buckets: callBuckets,
	}, []string{"operation"})
	m.networkFails = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_cni_operation_errors_total", Help: "Attachments and detachments that failed.",
	}, []string{"operation"})
	m.pulls = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_image_pulls_total", Help: "Pulls that have ended, by registry and result: ok, or the kind of failure.",
	}, []string{"registry", "result"})
	m.pullSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "berth_image_pull_duration_seconds", Help: "Duration of successful pulls, from the first request to the durable image.", Buckets: pullBuckets,
	}, []string{"registry"})
	m.pullBytes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_image_pull_bytes_total", Help: "Bytes of layers received from registries, as compressed there.",
	}, []string{"registry"})
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "berth_build_info", Help: "Always 1; the labels are of the running program.",
	}, []string{"version", "goversion"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	m.registry.MustRegister(m.calls, m.callSeconds, m.network, m.networkFails, m.pulls, m.pullSeconds, m.pullBytes, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, operation := range []string{"add", "del"} { // an alert on a rate needs the zero before the first failure
		m.networkFails.WithLabelValues(operation)
	}
	return m
}

// Call reports a CRI call: the method's name without its service, the gRPC code's name.
func (m *Instruments) Call(operation, code string, took time.Duration) {
	m.calls.WithLabelValues(operation, code).Inc()
	m.callSeconds.WithLabelValues(operation).Observe(took.Seconds())
}

// Network reports an attachment ("add") or a detachment ("del") of a pod.
func (m *Instruments) Network(operation string, took time.Duration, err error) {
	m.network.WithLabelValues(operation).Observe(took.Seconds())
	if err != nil {
		m.networkFails.WithLabelValues(operation).Inc()
	}
}

// Pull reports a pull from a registry.
func (m *Instruments) Pull(p image.Pulled) {
	registry := m.label(p.Registry)
	m.pulls.WithLabelValues(registry, pullResult(p.Err)).Inc()
	if p.Err == nil {
		m.pullSeconds.WithLabelValues(registry).Observe(p.Took.Seconds())
	}
}

// Received reports bytes of a layer that a registry sent.
func (m *Instruments) Received(registry string, bytes int64) {
	m.pullBytes.WithLabelValues(m.label(registry)).Add(float64(bytes))
}

// label bounds the number of registries with series of their own.
func (m *Instruments) label(registry string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.registries[registry] {
		if len(m.registries) >= maxRegistries {
			return otherRegistries
		}
		m.registries[registry] = true
	}
	return registry
}

// pullResult is the label for how a pull ended.
func pullResult(err error) string {
	if err == nil {
		return "ok"
	}
	if errors.Is(err, context.Canceled) {
		return "cancelled"
	}
	for _, kind := range []struct {
		err   error
		label string
	}{
		{image.ErrSignature, "signature"},
		{image.ErrUnauthorized, "unauthorized"},
		{image.ErrNotFound, "not_found"},
		{image.ErrNoSpace, "no_space"},
		{image.ErrCorrupt, "corrupt"},
		{image.ErrRefused, "refused"},
		{image.ErrRegistryUnavailable, "unavailable"},
	} {
		if errors.Is(err, kind.err) {
			return kind.label
		}
	}
	return "error"
}
