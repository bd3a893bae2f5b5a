package cri

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
)

// baseLabels begin every metric's label keys, in cAdvisor's names. For metrics
// of the pod itself container and image are empty.
var baseLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

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
	for _, c := range s.opt.Domain.Containers() {
		containers[c.ID] = c
	}
	var out []*runtimeapi.PodSandboxMetrics
	for _, p := range s.listPodStats(ctx, nil) {
		pm := s.measurePod(p)
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

func (s *Server) measurePod(p *runtimeapi.PodSandboxStats) *runtimeapi.PodSandboxMetrics {
	a, l := p.GetAttributes(), p.GetLinux()
	out := samples{base: []string{"", a.GetId(), "", a.GetId(), a.GetMetadata().GetNamespace(), a.GetMetadata().GetName()}}
	out.seconds(cpuSeconds, l.GetCpu().GetUsageCoreNanoSeconds(), "total")
	out.memory(l.GetMemory(), "hierarchy")
	out.pressures(l.GetCpu(), l.GetMemory(), l.GetIo())
	out.network(l.GetNetwork().GetDefaultInterface())
	for _, n := range l.GetNetwork().GetInterfaces() {
		out.network(n)
	}
	if m, err := s.opt.Domain.PodMeasures(a.GetId()); err == nil { // else it went meanwhile
		for _, i := range m.Interfaces {
			out.add(netRxPackets, i.Received, i.Name)
			out.add(netRxDropped, i.ReceivedDropped, i.Name)
			out.add(netTxPackets, i.Sent, i.Name)
			out.add(netTxDropped, i.Dropped, i.Name)
		}
	}
	out.put(processes, l.GetProcess().GetProcessCount())
	out.add(lastSeen, uint64(time.Now().Unix()))
	return &runtimeapi.PodSandboxMetrics{PodSandboxId: a.GetId(), Metrics: out.list}
}

func (s *Server) measureContainer(c *sandbox.ContainerStatus, st *runtimeapi.ContainerStats, pod *runtimeapi.PodSandboxMetadata) *runtimeapi.ContainerMetrics {
	out := samples{base: []string{c.Config.GetMetadata().GetName(), c.ID, strings.ToValidUTF8(s.displayName(c), ""), c.ID, pod.GetNamespace(), pod.GetName()}}
	out.seconds(cpuSeconds, st.GetCpu().GetUsageCoreNanoSeconds(), "total")
	out.memory(st.GetMemory(), "container")
	out.put(memSwap, st.GetSwap().GetSwapUsageBytes())
	if m, err := s.opt.Domain.Measures(c.ID); err == nil && m.Disk != nil { // else it went meanwhile
		out.cgroup(m)
		out.processes(m)
		out.disk(m, st.GetWritableLayer())
	}
	out.pressures(st.GetCpu(), st.GetMemory(), st.GetIo())
	if !c.StartedAt.IsZero() {
		out.add(startTime, uint64(c.StartedAt.Unix()))
	}
	out.add(lastSeen, uint64(time.Now().Unix()))
	out.limits(c.Resources.GetLinux())
	return &runtimeapi.ContainerMetrics{ContainerId: c.ID, Metrics: out.list}
}

func (s *samples) pressures(cpu *runtimeapi.CpuUsage, mem *runtimeapi.MemoryUsage, io *runtimeapi.IoUsage) {
	s.pressure(cpuStalled, cpuWaiting, cpu.GetPsi())
	s.pressure(memStalled, memWaiting, mem.GetPsi())
	s.pressure(ioStalled, ioWaiting, io.GetPsi())
}

func (s *samples) cgroup(m sandbox.Measures) {
	s.put(cfsPeriods, m.Periods)
	s.put(cfsThrottled, m.Throttled)
	s.seconds(cfsSeconds, m.ThrottledTime)
	s.seconds(cpuUser, m.UserCPU)
	s.seconds(cpuSystem, m.SystemCPU)
	s.put(oomEvents, m.OOMKills)
	s.put(memCache, m.Cache)
	s.put(memMapped, m.Mapped)
	s.put(memKernel, m.Kernel)
	s.put(memMost, m.MostMemory)
	s.put(memLimitHits, m.MemoryLimitHits)
	s.put(specReserved, m.MemoryReserved)
	for _, h := range m.HugePages {
		s.put(hugeUsage, h.Used, h.Size)
		s.put(hugeMost, h.Most, h.Size)
	}
}

func (s *samples) processes(m sandbox.Measures) {
	s.add(processes, m.Processes)
	s.put(threads, m.Threads)
	s.put(threadsMax, m.MostThreads)
	s.add(files, m.Files)
	s.add(sockets, m.Sockets)
	s.put(ulimits, m.MostFiles, "max_open_files")
}

// disk tells of the filesystem of the writable layer, and of every block device.
func (s *samples) disk(m sandbox.Measures, layer *runtimeapi.FilesystemUsage) {
	s.put(fsUsage, layer.GetUsedBytes(), m.Disk.Device)
	s.add(fsLimit, m.Disk.Bytes, m.Disk.Device)
	s.add(fsInodes, m.Disk.Inodes, m.Disk.Device)
	s.add(fsInodesFree, m.Disk.InodesFree, m.Disk.Device)
	for _, d := range m.Devices {
		name := d.Device
		if name == "" {
			name = fmt.Sprintf("%d:%d", d.Major, d.Minor) // so that each stays a series of its own
		}
		s.add(fsReads, d.Reads, name)
		s.add(fsReadBytes, d.ReadBytes, name)
		s.add(fsWrites, d.Writes, name)
		s.add(fsWrittenBytes, d.WrittenBytes, name)
		major, minor := strconv.FormatUint(d.Major, 10), strconv.FormatUint(d.Minor, 10)
		s.add(blkio, d.ReadBytes, name, major, minor, "Read")
		s.add(blkio, d.WrittenBytes, name, major, minor, "Write")
	}
}

// limits are 0 where there is none; the CRI writes that 0 or -1.
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
		s.add(l.m, uint64(max(l.v, 0)))
	}
}
