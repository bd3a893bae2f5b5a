package cri

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
)

// baseLabels begin every metric's label keys, in cAdvisor's names. For metrics
// of the pod itself container and image are empty.
var baseLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

// metric is one of those that cAdvisor has and the stats can fill. Values are
// whole numbers, since the CRI's are.
type metric struct {
	name, help string
	labels     []string // after baseLabels
	kind       runtimeapi.MetricType
}

const (
	counter = runtimeapi.MetricType_COUNTER
	gauge   = runtimeapi.MetricType_GAUGE
)

var (
	cpuSeconds    = metric{"container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", []string{"cpu"}, counter}
	cfsPeriods    = metric{"container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", nil, counter}
	cfsThrottled  = metric{"container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", nil, counter}
	cfsSeconds    = metric{"container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", nil, counter}
	oomEvents     = metric{"container_oom_events_total", "Count of out of memory events observed for the container.", nil, counter}
	memUsage      = metric{"container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed.", nil, gauge}
	memWorkingSet = metric{"container_memory_working_set_bytes", "Current working set in bytes.", nil, gauge}
	memRSS        = metric{"container_memory_rss", "Size of RSS in bytes.", nil, gauge}
	memFaults     = metric{"container_memory_failures_total", "Cumulative count of memory allocation failures.", []string{"failure_type", "scope"}, counter}
	memSwap       = metric{"container_memory_swap", "Container swap usage in bytes.", nil, gauge}
	fsUsage       = metric{"container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", []string{"device"}, gauge}
	cpuStalled    = metric{"container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion.", nil, counter}
	cpuWaiting    = metric{"container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion.", nil, counter}
	memStalled    = metric{"container_pressure_memory_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to memory congestion.", nil, counter}
	memWaiting    = metric{"container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion.", nil, counter}
	ioStalled     = metric{"container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion.", nil, counter}
	ioWaiting     = metric{"container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion.", nil, counter}
	startTime     = metric{"container_start_time_seconds", "Start time of the container since unix epoch in seconds.", nil, gauge}
	lastSeen      = metric{"container_last_seen", "Last time a container was seen by the exporter.", nil, gauge}
	specPeriod    = metric{"container_spec_cpu_period", "CPU period of the container.", nil, gauge}
	specQuota     = metric{"container_spec_cpu_quota", "CPU quota of the container.", nil, gauge}
	specShares    = metric{"container_spec_cpu_shares", "CPU share of the container.", nil, gauge}
	specMemory    = metric{"container_spec_memory_limit_bytes", "Memory limit for the container.", nil, gauge}
	specSwap      = metric{"container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", nil, gauge}
	netRxBytes    = metric{"container_network_receive_bytes_total", "Cumulative count of bytes received.", []string{"interface"}, counter}
	netRxErrors   = metric{"container_network_receive_errors_total", "Cumulative count of errors encountered while receiving.", []string{"interface"}, counter}
	netTxBytes    = metric{"container_network_transmit_bytes_total", "Cumulative count of bytes transmitted.", []string{"interface"}, counter}
	netTxErrors   = metric{"container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting.", []string{"interface"}, counter}
	processes     = metric{"container_processes", "Number of processes running inside the container.", nil, gauge}
)

// allMetrics is what ListMetricDescriptors tells; it never changes while berth runs.
var allMetrics = []metric{
	cpuSeconds, cfsPeriods, cfsThrottled, cfsSeconds, oomEvents, memUsage, memWorkingSet, memRSS, memFaults, memSwap, fsUsage,
	cpuStalled, cpuWaiting, memStalled, memWaiting, ioStalled, ioWaiting,
	startTime, lastSeen, specPeriod, specQuota, specShares, specMemory, specSwap,
	netRxBytes, netRxErrors, netTxBytes, netTxErrors, processes,
}

func (s *runtimeService) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	resp := &runtimeapi.ListMetricDescriptorsResponse{}
	for _, m := range allMetrics {
		resp.Descriptors = append(resp.Descriptors, &runtimeapi.MetricDescriptor{
			Name: m.name, Help: m.help, LabelKeys: append(append([]string{}, baseLabels...), m.labels...),
		})
	}
	return resp, nil
}

func (s *runtimeService) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	return &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: fit(s.podMetrics(ctx), shrinkMetrics)}, nil
}

func (s *runtimeService) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, out grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	return inBatches(s.podMetrics(out.Context()), func(list []*runtimeapi.PodSandboxMetrics) error {
		return out.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: list})
	})
}

func (s *Server) podMetrics(ctx context.Context) []*runtimeapi.PodSandboxMetrics {
	containers := make(map[string]*sandbox.ContainerStatus)
	for _, c := range s.opt.States.Containers() {
		containers[c.ID] = c
	}
	var out []*runtimeapi.PodSandboxMetrics
	for _, p := range s.listPodStats(ctx, nil) {
		pm := measurePod(p)
		for _, cs := range p.GetLinux().GetContainers() {
			if c := containers[cs.GetAttributes().GetId()]; c != nil {
				pm.ContainerMetrics = append(pm.ContainerMetrics, s.measureContainer(c, cs, p.GetAttributes().GetMetadata()))
			}
		}
		out = append(out, pm)
	}
	return out
}

// samples collects metrics that share their first label values.
type samples struct {
	base []string
	list []*runtimeapi.Metric
}

func (s *samples) add(m metric, value uint64, labels ...string) {
	s.list = append(s.list, &runtimeapi.Metric{
		Name: m.name, MetricType: m.kind, Value: &runtimeapi.UInt64Value{Value: value},
		LabelValues: append(append([]string{}, s.base...), labels...),
	})
}

// put leaves out what was not measured.
func (s *samples) put(m metric, v *runtimeapi.UInt64Value, labels ...string) {
	if v != nil {
		s.add(m, v.GetValue(), labels...)
	}
}

func (s *samples) seconds(m metric, nanoseconds *runtimeapi.UInt64Value, labels ...string) {
	if nanoseconds != nil {
		s.add(m, nanoseconds.GetValue()/uint64(time.Second), labels...)
	}
}

func (s *samples) pressure(stalled, waiting metric, psi *runtimeapi.PsiStats) {
	if psi == nil {
		return
	}
	s.add(stalled, psi.GetFull().GetTotal()/uint64(time.Second))
	s.add(waiting, psi.GetSome().GetTotal()/uint64(time.Second))
}

func (s *samples) network(n *runtimeapi.NetworkInterfaceUsage) {
	if n == nil {
		return
	}
	s.put(netRxBytes, n.GetRxBytes(), n.GetName())
	s.put(netRxErrors, n.GetRxErrors(), n.GetName())
	s.put(netTxBytes, n.GetTxBytes(), n.GetName())
	s.put(netTxErrors, n.GetTxErrors(), n.GetName())
}

func (s *samples) memory(m *runtimeapi.MemoryUsage, scope string) {
	s.put(memUsage, m.GetUsageBytes())
	s.put(memWorkingSet, m.GetWorkingSetBytes())
	s.put(memRSS, m.GetRssBytes())
	s.put(memFaults, m.GetPageFaults(), "pgfault", scope)
	s.put(memFaults, m.GetMajorPageFaults(), "pgmajfault", scope)
}

func measurePod(p *runtimeapi.PodSandboxStats) *runtimeapi.PodSandboxMetrics {
	a, l := p.GetAttributes(), p.GetLinux()
	s := samples{base: []string{"", a.GetId(), "", a.GetId(), a.GetMetadata().GetNamespace(), a.GetMetadata().GetName()}}
	s.seconds(cpuSeconds, l.GetCpu().GetUsageCoreNanoSeconds(), "total")
	s.memory(l.GetMemory(), "hierarchy")
	s.network(l.GetNetwork().GetDefaultInterface())
	for _, n := range l.GetNetwork().GetInterfaces() {
		s.network(n)
	}
	s.put(processes, l.GetProcess().GetProcessCount())
	s.add(lastSeen, uint64(time.Now().Unix()))
	return &runtimeapi.PodSandboxMetrics{PodSandboxId: a.GetId(), Metrics: s.list}
}

func (s *Server) measureContainer(c *sandbox.ContainerStatus, st *runtimeapi.ContainerStats, pod *runtimeapi.PodSandboxMetadata) *runtimeapi.ContainerMetrics {
	out := samples{base: []string{c.Config.GetMetadata().GetName(), c.ID, strings.ToValidUTF8(s.displayName(c), ""), c.ID, pod.GetNamespace(), pod.GetName()}}
	out.seconds(cpuSeconds, st.GetCpu().GetUsageCoreNanoSeconds(), "total")
	if e, err := s.opt.Stats.Enforcement(c.ID); err == nil { // else it went meanwhile
		out.enforcement(e)
	}
	out.memory(st.GetMemory(), "container")
	out.put(memSwap, st.GetSwap().GetSwapUsageBytes())
	out.put(fsUsage, st.GetWritableLayer().GetUsedBytes(), st.GetWritableLayer().GetFsId().GetMountpoint())
	out.pressure(cpuStalled, cpuWaiting, st.GetCpu().GetPsi())
	out.pressure(memStalled, memWaiting, st.GetMemory().GetPsi())
	out.pressure(ioStalled, ioWaiting, st.GetIo().GetPsi())
	if !c.StartedAt.IsZero() {
		out.add(startTime, uint64(c.StartedAt.Unix()))
	}
	out.add(lastSeen, uint64(time.Now().Unix()))
	out.limits(c.Resources.GetLinux())
	return &runtimeapi.ContainerMetrics{ContainerId: c.ID, Metrics: out.list}
}

func (s *samples) enforcement(e sandbox.Enforcement) {
	s.put(cfsPeriods, e.Periods)
	s.put(cfsThrottled, e.Throttled)
	s.seconds(cfsSeconds, e.ThrottledTime)
	s.put(oomEvents, e.OOMKills)
}

// limits leaves out what is not limited: the CRI writes that 0 or -1.
func (s *samples) limits(r *runtimeapi.LinuxContainerResources) {
	for _, l := range []struct {
		m metric
		v int64
	}{
		{specPeriod, r.GetCpuPeriod()},
		{specQuota, r.GetCpuQuota()},
		{specShares, r.GetCpuShares()},
		{specMemory, r.GetMemoryLimitInBytes()},
		{specSwap, r.GetMemorySwapLimitInBytes()},
	} {
		if l.v > 0 {
			s.add(l.m, uint64(l.v))
		}
	}
}
