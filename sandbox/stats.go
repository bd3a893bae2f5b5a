package sandbox

import (
	"context"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// usageSample keeps the last CPU reading, from which the rate is told.
type usageSample struct {
	mu   sync.Mutex
	at   time.Time
	cpu  uint64 // nanoseconds
	rate uint64 // nanocores
	seen bool
}

// minSample is the shortest span a rate is computed over; readers that come
// closer together get the same answer.
const minSample = 500 * time.Millisecond

// nanoCores takes a reading in and returns the rate since the last one; ok is
// false for the first.
func (u *usageSample) nanoCores(at time.Time, cpu uint64) (rate uint64, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	span := at.Sub(u.at)
	if u.at.IsZero() || cpu < u.cpu {
		u.at, u.cpu, u.seen = at, cpu, false
		return 0, false
	}
	if span >= minSample {
		u.rate = uint64(float64(cpu-u.cpu) / span.Seconds())
		u.at, u.cpu, u.seen = at, cpu, true
	}
	return u.rate, u.seen
}

// ContainerStats reads the usage of one container from its cgroup.
func (m *Manager) ContainerStats(ctx context.Context, id string) (*runtimeapi.ContainerStats, error) {
	c, err := m.container(id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, layerPatience)
	defer cancel()
	return m.containerStats(ctx, c), nil
}

// ListContainerStats reads the usage of the containers named; those that have
// gone meanwhile are left out.
func (m *Manager) ListContainerStats(ctx context.Context, ids []string) []*runtimeapi.ContainerStats {
	wait, cancel := context.WithTimeout(ctx, layerPatience)
	defer cancel()
	out := make([]*runtimeapi.ContainerStats, len(ids))
	parallel(ctx, len(ids), func(i int) {
		if c, err := m.container(ids[i]); err == nil {
			out[i] = m.containerStats(wait, c)
		}
	})
	return compact(out)
}

// PodStats reads the usage of a pod sandbox and its containers.
func (m *Manager) PodStats(ctx context.Context, id string) (*runtimeapi.PodSandboxStats, error) {
	s, err := m.pod(id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, layerPatience)
	defer cancel()
	return m.podStats(ctx, s, m.ownCgroups()[s.id]), nil
}

// ListPodStats reads the usage of the pod sandboxes named; those that have gone
// meanwhile are left out.
func (m *Manager) ListPodStats(ctx context.Context, ids []string) []*runtimeapi.PodSandboxStats {
	wait, cancel := context.WithTimeout(ctx, layerPatience)
	defer cancel()
	own := m.ownCgroups()
	out := make([]*runtimeapi.PodSandboxStats, len(ids))
	parallel(ctx, len(ids), func(i int) {
		if s, err := m.pod(ids[i]); err == nil {
			out[i] = m.podStats(wait, s, own[s.id])
		}
	})
	return compact(out)
}

// statsReaders is how many cgroups are read side by side; the reads are short
// and hardly block (see layerPatience), so a few hide the system call latency.
const statsReaders = 8

func parallel(ctx context.Context, n int, do func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(n, statsReaders) {
		wg.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	wg.Wait()
}

func compact[T any](in []*T) []*T {
	out := in[:0]
	for _, v := range in {
		if v != nil {
			out = append(out, v)
		}
	}
	return out
}

// containerStats waits for the measure of the writable layer until ctx ends.
func (m *Manager) containerStats(ctx context.Context, c *Container) *runtimeapi.ContainerStats {
	st := c.status.Load()
	if st == nil {
		return nil
	}
	out := &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id: c.id, Metadata: st.Config.GetMetadata(), Labels: st.Config.GetLabels(), Annotations: st.Config.GetAnnotations(),
		},
		WritableLayer: m.writableLayer(ctx, c),
	}
	if st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return out
	}
	g := cgroupReader{v2: m.opt.Host.CgroupV2, paths: st.Cgroups}
	now := time.Now()
	out.Cpu, out.Memory, out.Swap, out.Io = g.cpu(now), g.memory(now), g.swap(now), g.io(now)
	setRate(&c.usage, now, out.Cpu)
	return out
}

func setRate(u *usageSample, now time.Time, cpu *runtimeapi.CpuUsage) {
	if cpu == nil {
		return
	}
	if rate, ok := u.nanoCores(now, cpu.GetUsageCoreNanoSeconds().GetValue()); ok {
		cpu.UsageNanoCores = &runtimeapi.UInt64Value{Value: rate}
	}
}
