package shimv2

import (
	"context"
	"fmt"
	"strings"
	"time"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"berth/oci/shimapi"
)

// Usage implements [shim.Task].
func (t *container) Usage(ctx context.Context) (shimapi.Usage, error) {
	var r task.StatsResponse
	if err := t.c.call(ctx, "Stats", &task.StatsRequest{ID: t.id}, &r); err != nil {
		return shimapi.Usage{}, err
	}
	return usageOf(r.GetStats())
}

// usageOf reads the metrics of either version of cgroups.
func usageOf(stats *anypb.Any) (shimapi.Usage, error) {
	u := shimapi.Usage{At: time.Now()}
	switch {
	case strings.HasSuffix(stats.GetTypeUrl(), "io.containerd.cgroups.v1.Metrics"):
		var m cgroup1.Metrics
		if err := proto.Unmarshal(stats.GetValue(), &m); err != nil {
			return u, err
		}
		readV1(&u, &m)
	case strings.HasSuffix(stats.GetTypeUrl(), "io.containerd.cgroups.v2.Metrics"):
		var m cgroup2.Metrics
		if err := proto.Unmarshal(stats.GetValue(), &m); err != nil {
			return u, err
		}
		readV2(&u, &m)
	default:
		return u, fmt.Errorf("statistics of an unknown type %q", stats.GetTypeUrl())
	}
	return u, nil
}

func readV1(u *shimapi.Usage, m *cgroup1.Metrics) {
	if cpu := m.GetCPU().GetUsage(); cpu != nil {
		u.CPU = &cpu.Total
	}
	if memory := m.GetMemory(); memory != nil {
		if memory.GetUsage() != nil {
			u.Memory, u.MemoryLimit = &memory.Usage.Usage, &memory.Usage.Limit
		}
		u.Inactive = memory.GetTotalInactiveFile()
		u.RSS, u.Faults, u.MajorFaults = &memory.TotalRSS, &memory.TotalPgFault, &memory.TotalPgMajFault
	}
	if pids := m.GetPids(); pids != nil {
		u.PIDs = &pids.Current
	}
}

func readV2(u *shimapi.Usage, m *cgroup2.Metrics) {
	if cpu := m.GetCPU(); cpu != nil {
		nanoseconds := cpu.GetUsageUsec() * 1000
		u.CPU = &nanoseconds
	}
	if memory := m.GetMemory(); memory != nil {
		u.Memory, u.MemoryLimit, u.Inactive = &memory.Usage, &memory.UsageLimit, memory.GetInactiveFile()
		u.RSS, u.Faults, u.MajorFaults = &memory.Anon, &memory.Pgfault, &memory.Pgmajfault
	}
	if pids := m.GetPids(); pids != nil {
		u.PIDs = &pids.Current
	}
}
