package oci

import (
	"cmp"
	"maps"
	"math"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodLimits gives the limits of the cgroup above a pod's containers: what they may have
// together, and the pod's overhead on top (KEP-688, KEP-2837). It is nil if nothing is
// limited. The error wraps [ErrInvalid] or [ErrUnsupported].
func PodLimits(resources, overhead *runtimeapi.LinuxContainerResources, h Host) (*specs.LinuxResources, error) {
	sum := addResources(resources, overhead)
	for _, limited := range []bool{
		sum.CpuQuota != 0, sum.CpuShares != 0, sum.MemoryLimitInBytes != 0, sum.CpusetCpus+sum.CpusetMems != "",
		len(sum.HugepageLimits) > 0, len(sum.Unified) > 0,
	} {
		if limited {
			return linuxResources(sum, h)
		}
	}
	return nil, nil
}

// addResources adds amounts. CPU sets and raw files of cgroup v2 are no amounts: they are
// those of the resources, or of the overhead where these name none.
func addResources(r, over *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	sum := &runtimeapi.LinuxContainerResources{
		CpuPeriod:              r.GetCpuPeriod(),
		CpuQuota:               addLimit(r.GetCpuQuota(), quotaIn(over, r.GetCpuPeriod())),
		CpuShares:              min(addLimit(r.GetCpuShares(), over.GetCpuShares()), maxCPUShares),
		MemoryLimitInBytes:     addLimit(r.GetMemoryLimitInBytes(), over.GetMemoryLimitInBytes()),
		MemorySwapLimitInBytes: addLimit(r.GetMemorySwapLimitInBytes(), memoryAndSwap(over)),
		CpusetCpus:             cmp.Or(r.GetCpusetCpus(), over.GetCpusetCpus()),
		CpusetMems:             cmp.Or(r.GetCpusetMems(), over.GetCpusetMems()),
		HugepageLimits:         addPages(r.GetHugepageLimits(), over.GetHugepageLimits()),
		Unified:                maps.Clone(over.GetUnified()),
	}
	if sum.Unified == nil {
		sum.Unified = map[string]string{}
	}
	maps.Copy(sum.Unified, r.GetUnified())
	return sum
}

// memoryAndSwap is what the overhead may use of both together: an overhead that names no
// swap still needs its memory in a limit that counts both.
func memoryAndSwap(over *runtimeapi.LinuxContainerResources) int64 {
	return max(over.GetMemorySwapLimitInBytes(), over.GetMemoryLimitInBytes())
}

// addLimit adds two limits of which 0 is none named and -1 is no limit. Where the pod's
// containers are not limited, the overhead alone must not limit them.
func addLimit(limit, over int64) int64 {
	if limit <= 0 || over <= 0 {
		return limit
	}
	return limit + min(over, math.MaxInt64-limit)
}

// defaultCPUPeriod is the kernel's, in microseconds (sched-bwc.rst).
const defaultCPUPeriod = 100_000

// quotaIn is the quota of the overhead for another period.
func quotaIn(over *runtimeapi.LinuxContainerResources, period int64) int64 {
	quota, from, to := over.GetCpuQuota(), cmp.Or(over.GetCpuPeriod(), defaultCPUPeriod), cmp.Or(period, defaultCPUPeriod)
	if quota <= 0 || from == to {
		return quota
	}
	return int64(float64(quota) * float64(to) / float64(from))
}

func addPages(limits, over []*runtimeapi.HugepageLimit) []*runtimeapi.HugepageLimit {
	var out []*runtimeapi.HugepageLimit
	for _, l := range limits {
		sum := &runtimeapi.HugepageLimit{PageSize: l.GetPageSize(), Limit: l.GetLimit()}
		if i := slices.IndexFunc(over, func(o *runtimeapi.HugepageLimit) bool { return o.GetPageSize() == l.GetPageSize() }); i >= 0 {
			sum.Limit += over[i].GetLimit()
		}
		out = append(out, sum)
	}
	return out
}
