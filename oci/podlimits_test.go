package oci

import (
	"errors"
	"math"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestPodLimits(t *testing.T) {
	type res = runtimeapi.LinuxContainerResources
	h := Host{Controllers: map[string]bool{"cpu": true, "cpuset": true, "memory": true, "hugetlb": true}}
	pages := func(n uint64) []*runtimeapi.HugepageLimit {
		return []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: n}}
	}
	for name, c := range map[string]struct {
		resources, overhead *res
		want                *res // nil: no limits
	}{
		"none":             {nil, nil, nil},
		"overhead only":    {nil, &res{MemoryLimitInBytes: 1 << 20, CpuQuota: 1000, CpuShares: 2, HugepageLimits: pages(1)}, nil},
		"sums":             {&res{MemoryLimitInBytes: 5, CpuShares: 10, CpuQuota: 100, HugepageLimits: pages(4)}, &res{MemoryLimitInBytes: 7, CpuShares: 2, CpuQuota: 50, HugepageLimits: pages(2)}, &res{MemoryLimitInBytes: 12, CpuShares: 12, CpuQuota: 150, HugepageLimits: pages(6)}},
		"other period":     {&res{CpuQuota: 10_000, CpuPeriod: 50_000}, &res{CpuQuota: 20_000}, &res{CpuQuota: 20_000, CpuPeriod: 50_000}},
		"no limit":         {&res{MemoryLimitInBytes: -1, CpuQuota: -1}, &res{MemoryLimitInBytes: 7, CpuQuota: 5}, &res{MemoryLimitInBytes: -1, CpuQuota: -1}},
		"the kernel's top": {&res{MemoryLimitInBytes: math.MaxInt64 - 1, CpuShares: maxCPUShares}, &res{MemoryLimitInBytes: 7, CpuShares: 2}, &res{MemoryLimitInBytes: math.MaxInt64, CpuShares: maxCPUShares}},
		"sets":             {&res{CpusetCpus: "0"}, &res{CpusetCpus: "1", CpusetMems: "0"}, &res{CpusetCpus: "0", CpusetMems: "0"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := PodLimits(c.resources, c.overhead, h)
			if err != nil || (got == nil) != (c.want == nil) {
				t.Fatalf("%v, %v", got, err)
			}
			if got == nil {
				return
			}
			if told := criResources(got); told.String() != c.want.String() {
				t.Errorf("got %v, want %v", told, c.want)
			}
		})
	}
	if _, err := PodLimits(&res{Unified: map[string]string{"memory.high": "1"}}, nil, h); !errors.Is(err, ErrUnsupported) {
		t.Errorf("raw files of cgroup v2 on v1: %v", err)
	}
}

// A limit of memory and swap together has room for the memory of the overhead.
func TestPodLimitsOfSwap(t *testing.T) {
	type res = runtimeapi.LinuxContainerResources
	h := Host{Controllers: map[string]bool{"memory": true}, SwapAccount: true}
	for name, c := range map[string]struct {
		resources, overhead *res
		memory, swap        int64
	}{
		"none named": {&res{MemoryLimitInBytes: 100}, &res{MemoryLimitInBytes: 50}, 150, 150},
		"no swap":    {&res{MemoryLimitInBytes: 100, MemorySwapLimitInBytes: 100}, &res{MemoryLimitInBytes: 50}, 150, 150},
		"some swap":  {&res{MemoryLimitInBytes: 100, MemorySwapLimitInBytes: 130}, &res{MemoryLimitInBytes: 50}, 150, 180},
		"of both":    {&res{MemoryLimitInBytes: 100, MemorySwapLimitInBytes: 130}, &res{MemoryLimitInBytes: 50, MemorySwapLimitInBytes: 60}, 150, 190},
		"any swap":   {&res{MemoryLimitInBytes: 100, MemorySwapLimitInBytes: -1}, &res{MemoryLimitInBytes: 50}, 150, -1},
		"over any":   {&res{MemoryLimitInBytes: 100, MemorySwapLimitInBytes: 100}, &res{MemoryLimitInBytes: 50, MemorySwapLimitInBytes: -1}, 150, 150},
	} {
		got, err := PodLimits(c.resources, c.overhead, h)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m := got.Memory; *m.Limit != c.memory || *m.Swap != c.swap {
			t.Errorf("%s: memory %d, with swap %d; want %d, %d", name, *m.Limit, *m.Swap, c.memory, c.swap)
		}
	}
}
