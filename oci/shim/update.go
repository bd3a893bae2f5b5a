package shim

import (
	"strings"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/shimapi"
)

// update changes limits. What the request does not name stays as it is.
func (s *Server) update(r shimapi.UpdateRequest) (any, error) {
	ctr, err := s.running(r.ID)
	if err != nil {
		return nil, err
	}
	if r.Resources == nil {
		return nil, fault(shimapi.KindInvalid, "update names no resources")
	}
	ctr.op.Lock()
	defer ctr.op.Unlock()
	config := ctr.lc.Config()
	// Copies: libcontainer goes back to its own when it can't set these.
	group, limits := *config.Cgroups, *config.Cgroups.Resources
	mergeCPU(&limits, r.Resources.CPU)
	mergeMemory(&limits, r.Resources.Memory)
	mergeRest(&limits, r.Resources)
	group.Resources = &limits
	config.Cgroups = &group
	if err := ctr.lc.Set(config); err != nil {
		return nil, fault(updateKind(err), "update limits: %w", err)
	}
	return nil, nil
}

// updateKind tells values that the kernel refuses from other failures.
func updateKind(err error) shimapi.Kind {
	for _, refusal := range []string{"invalid argument", "device or resource busy", "numerical result out of range", "rejecting", "unable to set memory limit"} {
		if strings.Contains(err.Error(), refusal) {
			return shimapi.KindInvalid
		}
	}
	return shimapi.KindInternal
}

func mergeCPU(to *cgroups.Resources, c *specs.LinuxCPU) {
	if c == nil {
		return
	}
	if c.Shares != nil {
		to.CpuShares = *c.Shares
		to.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*c.Shares)
	}
	put(&to.CpuQuota, c.Quota)
	put(&to.CpuPeriod, c.Period)
	put(&to.CpuRtRuntime, c.RealtimeRuntime)
	put(&to.CpuRtPeriod, c.RealtimePeriod)
	if c.Burst != nil {
		to.CpuBurst = c.Burst
	}
	if c.Idle != nil {
		to.CPUIdle = c.Idle
	}
	if c.Cpus != "" {
		to.CpusetCpus = c.Cpus
	}
	if c.Mems != "" {
		to.CpusetMems = c.Mems
	}
}

func mergeMemory(to *cgroups.Resources, m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	put(&to.Memory, m.Limit)
	put(&to.MemoryReservation, m.Reservation)
	put(&to.MemorySwap, m.Swap)
	put(&to.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
	if m.Limit != nil && *m.Limit == -1 && m.Swap == nil {
		to.MemorySwap = 0 // no limit of memory, so none of swap either
	}
}

func mergeRest(to *cgroups.Resources, r *specs.LinuxResources) {
	if r.Pids != nil && r.Pids.Limit != nil {
		to.PidsLimit = r.Pids.Limit
	}
	if r.BlockIO != nil {
		put(&to.BlkioWeight, r.BlockIO.Weight)
		put(&to.BlkioLeafWeight, r.BlockIO.LeafWeight)
	}
	if len(r.HugepageLimits) > 0 {
		to.HugetlbLimit = nil
		for _, h := range r.HugepageLimits {
			to.HugetlbLimit = append(to.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit})
		}
	}
	if r.Unified != nil {
		to.Unified = r.Unified
	}
}

func put[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}
