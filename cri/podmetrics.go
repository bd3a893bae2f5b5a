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
	counted := s.opt.Domain.Counted()
	for _, m := range allMetrics {
		if !m.canTell(counted) {
			continue
		}
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

// podMetrics are those of the ready pods and of the containers that run in them.
func (s *Server) podMetrics(ctx context.Context) []*runtimeapi.PodSandboxMetrics {
	pods, ids := make(map[string]*sandbox.PodStatus), []string(nil)
	for _, p := range s.opt.Domain.Pods() {
		if p.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			pods[p.ID], ids = p, append(ids, p.ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	containers := make(map[string]*sandbox.ContainerStatus)
	for _, c := range s.opt.Domain.Containers() {
		containers[c.ID] = c
	}
	var out []*runtimeapi.PodSandboxMetrics
	for _, m := range s.opt.Domain.MeasurePods(ctx, ids) {
		p := pods[m.Stats.GetAttributes().GetId()]
		pm := measurePod(p, m)
		for _, cs := range m.Stats.GetLinux().GetContainers() {
			c := containers[cs.GetAttributes().GetId()]
			if more, ok := m.Containers[cs.GetAttributes().GetId()]; ok && c != nil {
				pm.ContainerMetrics = append(pm.ContainerMetrics, s.measureContainer(c, cs, more, p.Config.GetMetadata()))
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

// memory tells of faults in both scopes, as cAdvisor does: of the cgroup itself, and with
// those below it.
func (s *samples) memory(m *runtimeapi.MemoryUsage, own sandbox.Measures) {
	s.put(memUsage, m.GetUsageBytes())
	s.put(memWorkingSet, m.GetWorkingSetBytes())
	s.put(memRSS, m.GetRssBytes())
	s.put(memFaults, own.Faults, "pgfault", "container")
	s.put(memFaults, own.MajorFaults, "pgmajfault", "container")
	s.put(memFaults, m.GetPageFaults(), "pgfault", "hierarchy")
	s.put(memFaults, m.GetMajorPageFaults(), "pgmajfault", "hierarchy")
}

// measurePod tells of the pod's own cgroup, whose sums have an empty container label, so
// that queries for containers, which ask for one, leave them out.
func measurePod(p *sandbox.PodStatus, m *sandbox.PodMeasures) *runtimeapi.PodSandboxMetrics {
	l, meta := m.Stats.GetLinux(), p.Config.GetMetadata()
	out := samples{base: []string{"", p.ID, "", p.ID, meta.GetNamespace(), meta.GetName()}}
	out.seconds(cpuSeconds, l.GetCpu().GetUsageCoreNanoSeconds(), "total")
	out.memory(l.GetMemory(), m.Pod)
	out.put(memSwap, m.Pod.Swap)
	out.pressures(l.GetCpu(), l.GetMemory(), l.GetIo())
	out.cgroup(m.Pod)
	out.devices(m.Pod)
	out.network(l.GetNetwork().GetDefaultInterface())
	for _, n := range l.GetNetwork().GetInterfaces() {
		out.network(n)
	}
	for _, i := range m.Pod.Interfaces {
		out.add(netRxPackets, i.Received, i.Name)
		out.add(netRxDropped, i.ReceivedDropped, i.Name)
		out.add(netTxPackets, i.Sent, i.Name)
		out.add(netTxDropped, i.Dropped, i.Name)
	}
	out.put(processes, l.GetProcess().GetProcessCount())
	out.times(p.CreatedAt, p.CreatedAt)
	for _, v := range []struct {
		m metric
		v *runtimeapi.UInt64Value
	}{
		{specPeriod, m.Pod.Limits.Period},
		{specQuota, m.Pod.Limits.Quota},
		{specShares, m.Pod.Limits.Shares},
		{specMemory, m.Pod.Limits.Memory},
		{specSwap, m.Pod.Limits.Swap},
	} {
		out.put(v.m, v.v)
	}
	return &runtimeapi.PodSandboxMetrics{PodSandboxId: p.ID, Metrics: out.list}
}

func (s *Server) measureContainer(c *sandbox.ContainerStatus, st *runtimeapi.ContainerStats, m sandbox.Measures, pod *runtimeapi.PodSandboxMetadata) *runtimeapi.ContainerMetrics {
	out := samples{base: []string{c.Config.GetMetadata().GetName(), c.ID, strings.ToValidUTF8(s.displayName(c), ""), c.ID, pod.GetNamespace(), pod.GetName()}}
	out.seconds(cpuSeconds, st.GetCpu().GetUsageCoreNanoSeconds(), "total")
	out.memory(st.GetMemory(), m)
	out.put(memSwap, st.GetSwap().GetSwapUsageBytes())
	out.cgroup(m)
	out.processes(m)
	out.disk(m.Disk, st.GetWritableLayer())
	out.devices(m)
	out.pressures(st.GetCpu(), st.GetMemory(), st.GetIo())
	out.times(c.CreatedAt, c.StartedAt)
	out.limits(c.Resources.GetLinux(), m.Limits.Swap)
	return &runtimeapi.ContainerMetrics{ContainerId: c.ID, Metrics: out.list}
}

func (s *samples) times(created, started time.Time) {
	s.add(creationTime, uint64(created.Unix()))
	if !started.IsZero() {
		s.add(startTime, uint64(started.Unix()))
	}
	s.add(lastSeen, uint64(time.Now().Unix()))
}

func (s *samples) pressures(cpu *runtimeapi.CpuUsage, mem *runtimeapi.MemoryUsage, io *runtimeapi.IoUsage) {
	s.pressure(cpuStalled, cpuWaiting, cpu.GetPsi())
	s.pressure(memStalled, memWaiting, mem.GetPsi())
	s.pressure(ioStalled, ioWaiting, io.GetPsi())
}

// cgroup tells what every cgroup counts.
func (s *samples) cgroup(m sandbox.Measures) {
	s.put(cfsPeriods, m.Periods)
	s.put(cfsThrottled, m.Throttled)
	s.seconds(cfsSeconds, m.ThrottledTime)
	s.put(cfsBursts, m.Bursts)
	s.seconds(cfsBurstSeconds, m.BurstTime)
	s.seconds(cpuUser, m.UserCPU)
	s.seconds(cpuSystem, m.SystemCPU)
	s.put(oomEvents, m.OOMKills)
	s.put(memCache, m.Cache)
	s.put(memMapped, m.Mapped)
	s.put(memActive, m.ActiveFile)
	s.put(memInactive, m.InactiveFile)
	s.put(memHighEvents, m.HighEvents)
	s.put(memMaxEvents, m.MaxEvents)
	s.put(memDirty, m.Dirty)
	s.put(memWriteback, m.Writeback)
	s.put(memScanned, m.Scanned)
	s.put(memReclaimed, m.Reclaimed)
	s.put(memRefaultFile, m.FileRefaults)
	s.put(memRefaultAnon, m.AnonRefaults)
	s.put(memKernel, m.Kernel)
	s.put(memMost, m.PeakMemory)
	s.put(memLimitHits, m.MemoryLimitHits)
	s.put(specReserved, m.MemoryReserved)
	s.put(threads, m.Threads)
	s.put(threadsMax, m.ThreadLimit)
	for _, h := range m.HugePages {
		s.put(hugeUsage, h.Used, h.Size)
		s.put(hugeMost, h.Peak, h.Size)
		s.put(hugeHits, h.Hits, h.Size)
	}
}

func (s *samples) processes(m sandbox.Measures) {
	s.add(processes, m.Processes)
	s.add(files, m.Files)
	s.add(sockets, m.Sockets)
	s.put(ulimits, m.FileLimit, "max_open_files")
}

// disk tells of the filesystem of the writable layer.
func (s *samples) disk(d *sandbox.Disk, layer *runtimeapi.FilesystemUsage) {
	if d == nil {
		return
	}
	s.put(fsUsage, layer.GetUsedBytes(), d.Device)
	s.add(fsLimit, d.Bytes, d.Device)
	s.add(fsInodes, d.Inodes, d.Device)
	s.add(fsInodesFree, d.InodesFree, d.Device)
}

// sector is the kernel's unit of block I/O in bytes, whatever the device's is.
const sector = 512

// devices tells of every block device that was used.
func (s *samples) devices(m sandbox.Measures) {
	for _, d := range m.Devices {
		name := d.Device
		if name == "" {
			name = fmt.Sprintf("%d:%d", d.Major, d.Minor) // so that each stays a series of its own
		}
		s.add(fsReads, d.Reads, name)
		s.add(fsReadBytes, d.ReadBytes, name)
		s.add(fsSectorReads, d.ReadBytes/sector, name)
		s.add(fsWrites, d.Writes, name)
		s.add(fsWrittenBytes, d.WrittenBytes, name)
		s.add(fsSectorWrites, d.WrittenBytes/sector, name)
		s.put(fsReadsMerged, d.ReadsMerged, name)
		s.put(fsWritesMerged, d.WritesMerged, name)
		s.seconds(fsReadSeconds, d.ReadTime, name)
		s.seconds(fsWriteSeconds, d.WriteTime, name)
		s.seconds(fsIOSeconds, d.Time, name)
		s.put(fsIOCurrent, d.Queued, name)
		s.seconds(fsCostUsage, d.CostUsage, name)
		s.seconds(fsCostWait, d.CostWait, name)
		s.seconds(fsCostInDebt, d.CostInDebt, name)
		s.seconds(fsCostInDelay, d.CostInDelay, name)
		major, minor := strconv.FormatUint(d.Major, 10), strconv.FormatUint(d.Minor, 10)
		s.add(blkio, d.ReadBytes, name, major, minor, "Read")
		s.add(blkio, d.WrittenBytes, name, major, minor, "Write")
	}
}

// limits are 0 where there is none; the CRI writes that 0 or -1. The limit of swap is the
// kernel's, unless it has none to tell, as cAdvisor has it: on v2 it is of swap alone, while
// the CRI's counts memory and swap together on either version.
func (s *samples) limits(r *runtimeapi.LinuxContainerResources, swap *runtimeapi.UInt64Value) {
	if swap == nil {
		swap = &runtimeapi.UInt64Value{Value: uint64(max(r.GetMemorySwapLimitInBytes(), 0))}
	}
	s.put(specSwap, swap)
	for _, l := range []struct {
		m metric
		v int64
	}{
		{specPeriod, r.GetCpuPeriod()},
		{specQuota, r.GetCpuQuota()},
		{specShares, r.GetCpuShares()},
		{specMemory, r.GetMemoryLimitInBytes()},
	} {
		s.add(l.m, uint64(max(l.v, 0)))
	}
}
