package cri

import (
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
)

// metric is one that the CRI serves of containers and pods. Its name is cAdvisor's where
// cAdvisor has one; others may be added, critest asks only that its own are there. Values
// are whole numbers, since the CRI's are.
//
// These are all names of critest, and all that the kubelet has cAdvisor serve, but two:
// container_health_state, because a runtime does not know the result of probes, and
// container_fs_io_time_weighted_seconds_total, which the kernel counts for a disk and not
// for a cgroup. Of what the kubelet leaves out in cAdvisor the hugetlb metrics are there.
// The others are not: perf events and resctrl need counters of the hardware, referenced
// bytes a write into every process, load and tasks in a state a look at every thread, the
// connections a walk through lists as long as their pod wishes, and NUMA six series a node
// and container in a list that must fit into one message.
type metric struct {
	name, help string
	labels     []string // after baseLabels
	kind       runtimeapi.MetricType
}

// allMetrics are what ListMetricDescriptors answers, in the order below, but for those that
// this host can't tell, see canTell. They never change while berth runs.
var allMetrics []metric

// counter declares a metric that only grows while its container runs.
func counter(name, help string, labels ...string) metric {
	return declare(metric{name, help, labels, runtimeapi.MetricType_COUNTER})
}

// gauge declares a metric that may grow and shrink.
func gauge(name, help string, labels ...string) metric {
	return declare(metric{name, help, labels, runtimeapi.MetricType_GAUGE})
}

func declare(m metric) metric {
	allMetrics = append(allMetrics, m)
	return m
}

// A new metric takes a line here; one in podmetrics.go, which sends it; a field of
// sandbox.Measures, which memoryMeasures, cpuMeasures or another function of
// sandbox/measures.go fills; and a value in each of three tests: everyMeasure in
// fake_test.go, TestMeasures in sandbox/measures_test.go, and fileMetrics in
// test/integration/metrics_test.go, which compares it with the kernel's file.
var (
	cpuSeconds      = counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", "cpu")
	cfsPeriods      = counter("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.")
	cfsThrottled    = counter("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.")
	cfsSeconds      = counter("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.")
	cfsBursts       = counter("container_cpu_cfs_burst_periods_total", "Number of periods when burst occurs.")
	cfsBurstSeconds = counter("container_cpu_cfs_burst_seconds_total", "Total time duration the container has been bursted.")
	oomEvents       = counter("container_oom_events_total", "Count of out of memory events observed for the container.")
	memUsage        = gauge("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed.")
	memWorkingSet   = gauge("container_memory_working_set_bytes", "Current working set in bytes.")
	memRSS          = gauge("container_memory_rss", "Size of RSS in bytes.")
	memFaults       = counter("container_memory_failures_total", "Cumulative count of memory allocation failures.", "failure_type", "scope")
	memSwap         = gauge("container_memory_swap", "Container swap usage in bytes.")
	memActive       = gauge("container_memory_total_active_file_bytes", "Current total active file in bytes.")
	memInactive     = gauge("container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.")
	memHighEvents   = counter("container_memory_events_high_total", "Cumulative count of memory.high throttle events for the container.")
	memMaxEvents    = counter("container_memory_events_max_total", "Cumulative count of memory.max limit hit events for the container.")
	memDirty        = gauge("container_memory_file_dirty_bytes", "Number of bytes of file cache that has been modified but not yet written back to disk.")
	memWriteback    = gauge("container_memory_file_writeback_bytes", "Number of bytes of file cache that is currently being written back to disk.")
	memScanned      = counter("container_memory_pgscan_total", "Cumulative number of pages scanned by the page reclaim algorithm.")
	memReclaimed    = counter("container_memory_pgsteal_total", "Cumulative number of pages reclaimed by the page reclaim algorithm.")
	memRefaultFile  = counter("container_memory_workingset_refault_file_total", "Cumulative number of refaults of previously evicted file pages.")
	memRefaultAnon  = counter("container_memory_workingset_refault_anon_total", "Cumulative number of refaults of previously evicted anonymous pages.")
	fsUsage         = gauge("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", "device")
	cpuStalled      = counter("container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion.")
	cpuWaiting      = counter("container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion.")
	memStalled      = counter("container_pressure_memory_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to memory congestion.")
	memWaiting      = counter("container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion.")
	ioStalled       = counter("container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion.")
	ioWaiting       = counter("container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion.")
	startTime       = gauge("container_start_time_seconds", "Start time of the container since unix epoch in seconds.")
	creationTime    = gauge("container_creation_time_seconds", "Container creation time since unix epoch in seconds.")
	lastSeen        = gauge("container_last_seen", "Last time a container was seen by the exporter.")
	specPeriod      = gauge("container_spec_cpu_period", "CPU period of the container.")
	specQuota       = gauge("container_spec_cpu_quota", "CPU quota of the container.")
	specShares      = gauge("container_spec_cpu_shares", "CPU share of the container.")
	specMemory      = gauge("container_spec_memory_limit_bytes", "Memory limit for the container.")
	specSwap        = gauge("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.")
	netRxBytes      = counter("container_network_receive_bytes_total", "Cumulative count of bytes received.", "interface")
	netRxErrors     = counter("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving.", "interface")
	netTxBytes      = counter("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted.", "interface")
	netTxErrors     = counter("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting.", "interface")
	processes       = gauge("container_processes", "Number of processes running inside the container.")
	cpuUser         = counter("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.")
	cpuSystem       = counter("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.")
	memCache        = gauge("container_memory_cache", "Number of bytes of page cache memory.")
	memMapped       = gauge("container_memory_mapped_file", "Size of memory mapped files in bytes.")
	memKernel       = gauge("container_memory_kernel_usage", "Size of kernel memory allocated in bytes.")
	memMost         = gauge("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes.")
	memLimitHits    = counter("container_memory_failcnt", "Number of memory usage hits limits.")
	hugeUsage       = gauge("container_hugetlb_usage_bytes", "Current hugepage usage in bytes.", "pagesize")
	hugeMost        = gauge("container_hugetlb_max_usage_bytes", "Maximum hugepage usage recorded in bytes.", "pagesize")
	hugeHits        = counter("container_hugetlb_failcnt", "Number of hugepage usage hits limits.", "pagesize")
	fsLimit         = gauge("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", "device")
	fsInodes        = gauge("container_fs_inodes_total", "Number of inodes.", "device")
	fsInodesFree    = gauge("container_fs_inodes_free", "Number of available inodes.", "device")
	fsReads         = counter("container_fs_reads_total", "Cumulative count of reads completed.", "device")
	fsReadBytes     = counter("container_fs_reads_bytes_total", "Cumulative count of bytes read.", "device")
	fsWrites        = counter("container_fs_writes_total", "Cumulative count of writes completed.", "device")
	fsWrittenBytes  = counter("container_fs_writes_bytes_total", "Cumulative count of bytes written.", "device")
	fsSectorReads   = counter("container_fs_sector_reads_total", "Cumulative count of sector reads completed.", "device")
	fsSectorWrites  = counter("container_fs_sector_writes_total", "Cumulative count of sector writes completed.", "device")
	fsReadsMerged   = counter("container_fs_reads_merged_total", "Cumulative count of reads merged.", "device")
	fsWritesMerged  = counter("container_fs_writes_merged_total", "Cumulative count of writes merged.", "device")
	fsReadSeconds   = counter("container_fs_read_seconds_total", "Cumulative count of seconds spent reading.", "device")
	fsWriteSeconds  = counter("container_fs_write_seconds_total", "Cumulative count of seconds spent writing.", "device")
	fsIOCurrent     = gauge("container_fs_io_current", "Number of I/Os currently in progress.", "device")
	fsIOSeconds     = counter("container_fs_io_time_seconds_total", "Cumulative count of seconds spent doing I/Os.", "device")
	fsCostUsage     = counter("container_fs_io_cost_usage_seconds_total", "Cumulative IOCost usage in seconds.", "device")
	fsCostWait      = counter("container_fs_io_cost_wait_seconds_total", "Cumulative IOCost wait in seconds.", "device")
	fsCostInDebt    = counter("container_fs_io_cost_indebt_seconds_total", "Cumulative IOCost debt in seconds.", "device")
	fsCostInDelay   = counter("container_fs_io_cost_indelay_seconds_total", "Cumulative IOCost delay in seconds.", "device")
	blkio           = counter("container_blkio_device_usage_total", "Bytes read from and written to a block device.", "device", "major", "minor", "operation")
	files           = gauge("container_file_descriptors", "Number of open file descriptors for the container.")
	sockets         = gauge("container_sockets", "Number of open sockets for the container.")
	threads         = gauge("container_threads", "Number of threads running inside the container.")
	threadsMax      = gauge("container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero.")
	ulimits         = gauge("container_ulimits_soft", "Soft ulimit values for the container root process.", "ulimit")
	specReserved    = gauge("container_spec_memory_reservation_limit_bytes", "Memory reservation limit for the container.")
	netRxPackets    = counter("container_network_receive_packets_total", "Cumulative count of packets received.", "interface")
	netRxDropped    = counter("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving.", "interface")
	netTxPackets    = counter("container_network_transmit_packets_total", "Cumulative count of packets transmitted.", "interface")
	netTxDropped    = counter("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting.", "interface")
)

// ofCgroup2 are the metrics that only version 2 of cgroups counts.
var ofCgroup2 = []string{memHighEvents.name, memMaxEvents.name, memScanned.name, memReclaimed.name}

// ofDevices are the metrics of block devices that not every kernel counts.
var ofDevices = map[string]func(sandbox.DeviceIO) *runtimeapi.UInt64Value{
	fsReadsMerged.name:  func(d sandbox.DeviceIO) *runtimeapi.UInt64Value { return d.ReadsMerged },
	fsWritesMerged.name: func(d sandbox.DeviceIO) *runtimeapi.UInt64Value { return d.WritesMerged },
	fsReadSeconds.name:  func(d sandbox.DeviceIO) *runtimeapi.UInt64Value { return d.ReadTime },
	fsWriteSeconds.name: func(d sandbox.DeviceIO) *runtimeapi.UInt64Value { return d.WriteTime },
	fsIOSeconds.name:    func(d sandbox.DeviceIO) *runtimeapi.UInt64Value { return d.Time },
	fsIOCurrent.name:    func(d sandbox.DeviceIO) *runtimeapi.UInt64Value { return d.Queued },
	fsCostUsage.name:    func(d sandbox.DeviceIO) *runtimeapi.UInt64Value { return d.CostUsage },
	fsCostWait.name:     func(d sandbox.DeviceIO) *runtimeapi.UInt64Value { return d.CostWait },
	fsCostInDebt.name:   func(d sandbox.DeviceIO) *runtimeapi.UInt64Value { return d.CostInDebt },
	fsCostInDelay.name:  func(d sandbox.DeviceIO) *runtimeapi.UInt64Value { return d.CostInDelay },
}

// canTell tells whether a host with these counters has values for a metric. critest refuses
// a metric that is described and never sent, unless it is one of block I/O that has long
// been known.
func (m metric) canTell(c sandbox.Counted) bool {
	switch m.name {
	case hugeUsage.name, hugeHits.name:
		return c.HugePages
	case hugeMost.name:
		return c.HugePeaks
	case fsSectorReads.name, fsSectorWrites.name:
		return c.Idle != nil
	}
	if of, ok := ofDevices[m.name]; ok {
		return c.Idle != nil && of(*c.Idle) != nil
	}
	return c.Cgroup2 || !slices.Contains(ofCgroup2, m.name)
}
