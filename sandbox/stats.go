package sandbox

import (
	"context"
	"errors"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/oci"
	"berth/oci/shimapi"
	"berth/oci/shims"
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
//
// Readers that overlap come here in any order, so a reading may be older than the last one
// or have the lower count. Neither is a restart of the count while they are this close.
func (u *usageSample) nanoCores(at time.Time, cpu uint64) (rate uint64, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch span := at.Sub(u.at); {
	case !u.at.IsZero() && span < minSample: // negative for an older reading
		return u.rate, u.seen
	case u.at.IsZero() || cpu < u.cpu:
		u.at, u.cpu, u.rate, u.seen = at, cpu, 0, false
	default:
		u.rate = uint64(float64(cpu-u.cpu) / span.Seconds())
		u.at, u.cpu, u.seen = at, cpu, true
	}
	return u.rate, u.seen
}

// statistics measures what pods and containers use.
type statistics struct {
	paths      layout
	index      *index
	host       oci.Host
	shims      *shims.Set
	counted    Counted
	layerWalks chan struct{} // holds one for each writable layer that is being measured
}

func newStatistics(paths layout, ix *index, host oci.Host, all *shims.Set) *statistics {
	return &statistics{paths: paths, index: ix, host: host, shims: all, counted: countedOn(host, paths.root), layerWalks: make(chan struct{}, layerWalks)}
}

// patience bounds what one call for statistics waits for, for all of its pods and
// containers together. The rest is read from memory and from the kernel, and is told
// whether or not either is over.
type patience struct {
	layers  context.Context // for measures of writable layers
	foreign context.Context // for foreign shims
}

// newPatience gives that of a call, and what frees it.
func newPatience(ctx context.Context) (patience, func()) {
	layers, endLayers := context.WithTimeout(ctx, layerPatience)
	foreign, endForeign := context.WithTimeout(ctx, foreignPatience)
	return patience{layers, foreign}, func() { endLayers(); endForeign() }
}

// ContainerStats reads the usage of one container from its cgroup.
func (u *statistics) ContainerStats(ctx context.Context, id string) (*runtimeapi.ContainerStats, error) {
	c, err := u.index.container(id)
	if err != nil {
		return nil, err
	}
	wait, end := newPatience(ctx)
	defer end()
	st, _ := u.containerStats(wait, c)
	return st, nil
}

// ListContainerStats reads the usage of the containers named; those that have
// gone meanwhile are left out.
func (u *statistics) ListContainerStats(ctx context.Context, ids []string) []*runtimeapi.ContainerStats {
	wait, end := newPatience(ctx)
	defer end()
	out := make([]*runtimeapi.ContainerStats, len(ids))
	parallel(ctx, len(ids), func(i int) {
		if c, err := u.index.container(ids[i]); err == nil {
			out[i], _ = u.containerStats(wait, c)
		}
	})
	return compact(out)
}

// PodStats reads the usage of a pod sandbox and its containers.
func (u *statistics) PodStats(ctx context.Context, id string) (*runtimeapi.PodSandboxStats, error) {
	s, err := u.index.pod(id)
	if err != nil {
		return nil, err
	}
	wait, end := newPatience(ctx)
	defer end()
	return u.podStats(wait, s, u.ownCgroups()[s.id], nil), nil
}

// ListPodStats reads the usage of the pod sandboxes named; those that have gone
// meanwhile are left out.
func (u *statistics) ListPodStats(ctx context.Context, ids []string) []*runtimeapi.PodSandboxStats {
	wait, end := newPatience(ctx)
	defer end()
	own := u.ownCgroups()
	out := make([]*runtimeapi.PodSandboxStats, len(ids))
	parallel(ctx, len(ids), func(i int) {
		if s, err := u.index.pod(ids[i]); err == nil {
			out[i] = u.podStats(wait, s, own[s.id], nil)
		}
	})
	return compact(out)
}

// statsReaders is how many cgroups are read side by side; the reads are short
// and hardly block (see patience), so a few hide the system call latency.
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

// containerStats also gives what it read from, which has no paths when the container does
// not run.
func (u *statistics) containerStats(wait patience, c *Container) (*runtimeapi.ContainerStats, cgroupReader) {
	st := c.status.Load()
	if st == nil {
		return nil, cgroupReader{}
	}
	out := &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id: c.id, Metadata: st.Config.GetMetadata(), Labels: st.Config.GetLabels(), Annotations: st.Config.GetAnnotations(),
		},
		WritableLayer: u.writableLayer(wait.layers, c),
	}
	if st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return out, cgroupReader{}
	}
	now := time.Now()
	if len(st.Cgroups) == 0 && c.pod.rec.get().isForeign() {
		u.foreignStats(wait.foreign, c, out)
		setRate(&c.usage, now, out.Cpu)
		return out, cgroupReader{}
	}
	g := reader(u.host.CgroupV2, st.Cgroups)
	g.open = &c.open
	out.Cpu, out.Memory, out.Swap, out.Io = g.cpu(now), g.memory(now), g.swap(now), g.io(now)
	setRate(&c.usage, now, out.Cpu)
	return out, g
}

const (
	// foreignPatience is how long the foreign shims of one call may take together to say
	// what their containers use. The usage of all others is told with it.
	foreignPatience = 2 * time.Second
	// fairPatience is the least that a foreign shim must have had before its silence counts:
	// others may have used up most of the call's patience.
	fairPatience = foreignPatience / 2
	// silentTime is how long a foreign shim is not asked again after it did not answer. It
	// doubles with each time in a row, up to maxSilentTime: the kubelet asks every ten
	// seconds, and would wait for a shim that hangs every time.
	silentTime    = 10 * time.Second
	maxSilentTime = 5 * time.Minute
)

// silence says until when a foreign shim is not asked, since it did not answer.
type silence struct {
	mu    sync.Mutex // held for assignments only
	since time.Time  // when the last question came to nothing
	span  time.Duration
}

func (s *silence) mayAsk(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now.Sub(s.since) >= s.span
}

// note takes in that a question has come to nothing. Questions that overlap count once.
func (s *silence) note(asked, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if asked.Before(s.since) {
		return
	}
	s.since, s.span = now, min(max(silentTime, 2*s.span), maxSilentTime)
}

// end takes in that the shim has answered.
func (s *silence) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.span = 0
}

// askForeign asks the foreign shim of a container, unless it is known to be silent. It
// reports false when there is no answer.
func (u *statistics) askForeign(ctx context.Context, c *Container) (shimapi.Usage, bool) {
	silent, asked := &c.pod.silent, time.Now()
	shim, err := c.pod.shimIn(u.shims)
	if err != nil || ctx.Err() != nil || !silent.mayAsk(asked) {
		return shimapi.Usage{}, false
	}
	usage, err := shim.Usage(ctx, c.id)
	switch now := time.Now(); {
	case ctx.Err() == nil:
		silent.end()
	case errors.Is(ctx.Err(), context.DeadlineExceeded) && now.Sub(asked) >= fairPatience:
		silent.note(asked, now)
	}
	if err != nil {
		klog.FromContext(ctx).V(4).Info("A runtime does not tell what its container uses", "container", c.id, "reason", err.Error())
	}
	return usage, err == nil
}

// foreignStats asks the foreign shim of a container whose cgroup is not known here. What the
// runtime does not tell is left out.
func (u *statistics) foreignStats(ctx context.Context, c *Container, out *runtimeapi.ContainerStats) {
	usage, ok := u.askForeign(ctx, c)
	if !ok {
		return
	}
	at := usage.At.UnixNano()
	value := func(n *uint64) *runtimeapi.UInt64Value {
		if n == nil {
			return nil
		}
		return u64(*n)
	}
	if usage.CPU != nil {
		out.Cpu = &runtimeapi.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: u64(*usage.CPU)}
	}
	if usage.Memory == nil {
		return
	}
	working := *usage.Memory - min(*usage.Memory, usage.Inactive)
	out.Memory = &runtimeapi.MemoryUsage{
		Timestamp: at, UsageBytes: u64(*usage.Memory), WorkingSetBytes: u64(working),
		RssBytes: value(usage.RSS), PageFaults: value(usage.Faults), MajorPageFaults: value(usage.MajorFaults),
	}
	if limit := usage.MemoryLimit; limit != nil && *limit > 0 && *limit < noLimit {
		out.Memory.AvailableBytes = u64(*limit - min(*limit, working))
	}
}

func setRate(u *usageSample, now time.Time, cpu *runtimeapi.CpuUsage) {
	if cpu == nil {
		return
	}
	if rate, ok := u.nanoCores(now, cpu.GetUsageCoreNanoSeconds().GetValue()); ok {
		cpu.UsageNanoCores = &runtimeapi.UInt64Value{Value: rate}
	}
}
