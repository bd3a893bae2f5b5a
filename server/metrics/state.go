package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
)

// State is what exists on the node at a moment.
type State struct {
	Pods       map[string]int // by state: ready, notready
	Containers map[string]int // by state: created, running, exited, unknown
	InFlight   int            // mutating calls that run
	Streams    map[string]int // open ones, by kind: exec, attach, portforward

	Images, Layers          int
	StoreBytes, StoreInodes uint64 // that images and layers take on disk
	Shims                   Shims
	OOMKilled               uint64 // containers, since the daemon started
	SubscribersCut          uint64 // of events, because they read too slowly
}

// Shims are the processes that hold the containers.
type Shims struct {
	Count        int
	Oldest       float64 // start of the oldest, in seconds since the epoch; 0 without shims
	Memory       uint64  // resident bytes of all
	Replacements uint64  // of shims that died, since the daemon started
}

// states is a collector that asks for the state whenever metrics are read.
type states struct {
	ask func() State

	pods, containers, streams               *prometheus.Desc
	inFlight, images, layers, bytes, inodes *prometheus.Desc
	shims, oldest, memory, replacements     *prometheus.Desc
	oomKilled, cut                          *prometheus.Desc
}

// Watch adds what ask returns to the metrics. ask is called for each reading, maybe
// several times at once, and must end within [AnswerTimeout].
func (m *Instruments) Watch(ask func() State) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("berth_"+name, help, labels, nil)
	}
	m.registry.MustRegister(&states{
		ask:          ask,
		pods:         desc("pods", "Pod sandboxes by state.", "state"),
		containers:   desc("containers", "Containers by state.", "state"),
		streams:      desc("streams", "Open sessions of exec, attach and port-forward.", "kind"),
		inFlight:     desc("cri_operations_in_flight", "Calls that change something and have not ended."),
		images:       desc("images", "Images in the store."),
		layers:       desc("image_layers", "Unpacked layers in the store."),
		bytes:        desc("image_store_bytes", "Disk space that images and layers take."),
		inodes:       desc("image_store_inodes", "Inodes that images and layers take."),
		shims:        desc("shims", "Shim processes."),
		oldest:       desc("shim_oldest_start_time_seconds", "Start of the oldest shim, in seconds since the epoch; 0 without shims."),
		memory:       desc("shims_resident_memory_bytes", "Resident memory of all shims."),
		replacements: desc("shim_replacements_total", "Shims that died and were replaced."),
		oomKilled:    desc("container_oom_kills_total", "Containers that ended because the kernel killed them for memory."),
		cut:          desc("event_subscribers_cut_total", "Subscribers of container events that were ended because they read too slowly."),
	})
}

// Describe implements [prometheus.Collector].
func (s *states) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(s, out) }

// Collect implements [prometheus.Collector].
func (s *states) Collect(out chan<- prometheus.Metric) {
	now := s.ask()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	for _, by := range []struct {
		desc   *prometheus.Desc
		counts map[string]int
	}{{s.pods, now.Pods}, {s.containers, now.Containers}, {s.streams, now.Streams}} {
		for label, n := range by.counts {
			gauge(by.desc, float64(n), label)
		}
	}
	gauge(s.inFlight, float64(now.InFlight))
	gauge(s.images, float64(now.Images))
	gauge(s.layers, float64(now.Layers))
	gauge(s.bytes, float64(now.StoreBytes))
	gauge(s.inodes, float64(now.StoreInodes))
	gauge(s.shims, float64(now.Shims.Count))
	gauge(s.oldest, now.Shims.Oldest)
	gauge(s.memory, float64(now.Shims.Memory))
	counter(s.replacements, now.Shims.Replacements)
	counter(s.oomKilled, now.OOMKilled)
	counter(s.cut, now.SubscribersCut)
}
