package cri

import runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

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
	cpuSeconds     = metric{"container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", []string{"cpu"}, counter}
	cfsPeriods     = metric{"container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", nil, counter}
	cfsThrottled   = metric{"container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", nil, counter}
	cfsSeconds     = metric{"container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", nil, counter}
	oomEvents      = metric{"container_oom_events_total", "Count of out of memory events observed for the container.", nil, counter}
	memUsage       = metric{"container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed.", nil, gauge}
	memWorkingSet  = metric{"container_memory_working_set_bytes", "Current working set in bytes.", nil, gauge}
	memRSS         = metric{"container_memory_rss", "Size of RSS in bytes.", nil, gauge}
	memFaults      = metric{"container_memory_failures_total", "Cumulative count of memory allocation failures.", []string{"failure_type", "scope"}, counter}
	memSwap        = metric{"container_memory_swap", "Container swap usage in bytes.", nil, gauge}
	fsUsage        = metric{"container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", []string{"device"}, gauge}
	cpuStalled     = metric{"container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion.", nil, counter}
	cpuWaiting     = metric{"container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion.", nil, counter}
	memStalled     = metric{"container_pressure_memory_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to memory congestion.", nil, counter}
	memWaiting     = metric{"container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion.", nil, counter}
	ioStalled      = metric{"container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion.", nil, counter}
	ioWaiting      = metric{"container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion.", nil, counter}
	startTime      = metric{"container_start_time_seconds", "Start time of the container since unix epoch in seconds.", nil, gauge}
	lastSeen       = metric{"container_last_seen", "Last time a container was seen by the exporter.", nil, gauge}
	specPeriod     = metric{"container_spec_cpu_period", "CPU period of the container.", nil, gauge}
	specQuota      = metric{"container_spec_cpu_quota", "CPU quota of the container.", nil, gauge}
	specShares     = metric{"container_spec_cpu_shares", "CPU share of the container.", nil, gauge}
	specMemory     = metric{"container_spec_memory_limit_bytes", "Memory limit for the container.", nil, gauge}
	specSwap       = metric{"container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", nil, gauge}
	netRxBytes     = metric{"container_network_receive_bytes_total", "Cumulative count of bytes received.", []string{"interface"}, counter}
	netRxErrors    = metric{"container_network_receive_errors_total", "Cumulative count of errors encountered while receiving.", []string{"interface"}, counter}
	netTxBytes     = metric{"container_network_transmit_bytes_total", "Cumulative count of bytes transmitted.", []string{"interface"}, counter}
	netTxErrors    = metric{"container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting.", []string{"interface"}, counter}
	cpuUser        = metric{"container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", nil, counter}
	cpuSystem      = metric{"container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", nil, counter}
	memCache       = metric{"container_memory_cache", "Number of bytes of page cache memory.", nil, gauge}
	memMapped      = metric{"container_memory_mapped_file", "Size of memory mapped files in bytes.", nil, gauge}
	memKernel      = metric{"container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", nil, gauge}
	memMost        = metric{"container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes.", nil, gauge}
	memLimitHits   = metric{"container_memory_failcnt", "Number of memory usage hits limits.", nil, counter}
	hugeUsage      = metric{"container_hugetlb_usage_bytes", "Current hugepage usage in bytes.", []string{"pagesize"}, gauge}
	hugeMost       = metric{"container_hugetlb_max_usage_bytes", "Maximum hugepage usage recorded in bytes.", []string{"pagesize"}, gauge}
	fsLimit        = metric{"container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", []string{"device"}, gauge}
	fsInodes       = metric{"container_fs_inodes_total", "Number of inodes.", []string{"device"}, gauge}
	fsInodesFree   = metric{"container_fs_inodes_free", "Number of available inodes.", []string{"device"}, gauge}
	fsReads        = metric{"container_fs_reads_total", "Cumulative count of reads completed.", []string{"device"}, counter}
	fsReadBytes    = metric{"container_fs_reads_bytes_total", "Cumulative count of bytes read.", []string{"device"}, counter}
	fsWrites       = metric{"container_fs_writes_total", "Cumulative count of writes completed.", []string{"device"}, counter}
	fsWrittenBytes = metric{"container_fs_writes_bytes_total", "Cumulative count of bytes written.", []string{"device"}, counter}
	blkio          = metric{"container_blkio_device_usage_total", "Bytes read from and written to a block device.", []string{"device", "major", "minor", "operation"}, counter}
	files          = metric{"container_file_descriptors", "Number of open file descriptors for the container.", nil, gauge}
	sockets        = metric{"container_sockets", "Number of open sockets for the container.", nil, gauge}
	threads        = metric{"container_threads", "Number of threads running inside the container.", nil, gauge}
	threadsMax     = metric{"container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero.", nil, gauge}
	ulimits        = metric{"container_ulimits_soft", "Soft ulimit values for the container root process.", []string{"ulimit"}, gauge}
	specReserved   = metric{"container_spec_memory_reservation_limit_bytes", "Memory reservation limit for the container.", nil, gauge}
	netRxPackets   = metric{"container_network_receive_packets_total", "Cumulative count of packets received.", []string{"interface"}, counter}
	netRxDropped   = metric{"container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving.", []string{"interface"}, counter}
	netTxPackets   = metric{"container_network_transmit_packets_total", "Cumulative count of packets transmitted.", []string{"interface"}, counter}
	netTxDropped   = metric{"container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting.", []string{"interface"}, counter}
	processes      = metric{"container_processes", "Number of processes running inside the container.", nil, gauge}
)

// allMetrics is what ListMetricDescriptors tells; it never changes while berth runs.
var allMetrics = []metric{
	cpuSeconds, cfsPeriods, cfsThrottled, cfsSeconds, oomEvents, memUsage, memWorkingSet, memRSS, memFaults, memSwap, fsUsage,
	cpuStalled, cpuWaiting, memStalled, memWaiting, ioStalled, ioWaiting,
	startTime, lastSeen, specPeriod, specQuota, specShares, specMemory, specSwap,
	netRxBytes, netRxErrors, netTxBytes, netTxErrors, processes,
	cpuUser, cpuSystem, memCache, memMapped, memKernel, memMost, memLimitHits, hugeUsage, hugeMost,
	fsLimit, fsInodes, fsInodesFree, fsReads, fsReadBytes, fsWrites, fsWrittenBytes, blkio,
	files, sockets, threads, threadsMax, ulimits, specReserved, netRxPackets, netRxDropped, netTxPackets, netTxDropped,
}
