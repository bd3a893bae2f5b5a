package oci

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (b *builder) resources() error {
	r, err := linuxResources(b.conf.GetLinux().GetResources(), b.host)
	if err != nil {
		return err
	}
	b.spec.Linux.Resources = r
	return nil
}

// UpdateResources gives the limits of a container after an update. A field that is zero
// in update keeps its old value, and so do the device rules. Neither argument is changed.
// oom_score_adj is not a limit of a cgroup; see [UpdateOOMScoreAdj]. The error wraps
// [ErrInvalid] or [ErrUnsupported].
func UpdateResources(old *specs.LinuxResources, update *runtimeapi.LinuxContainerResources, h Host) (*specs.LinuxResources, error) {
	merged := mergeResources(criResources(old), update)
	merged.OomScoreAdj = update.GetOomScoreAdj()
	r, err := linuxResources(merged, h)
	if err != nil {
		return nil, err
	}
	if old != nil {
		r.Devices, r.Pids, r.BlockIO, r.Rdma, r.Network = old.Devices, old.Pids, old.BlockIO, old.Rdma, old.Network
	}
	return r, nil
}

// AddLimits puts limits that the CRI has no field for into r: of processes, of realtime
// CPU, and the reservation of memory. Those that more does not name stay.
func AddLimits(r, more *specs.LinuxResources) {
	if more == nil {
		return
	}
	if more.Pids != nil {
		r.Pids = more.Pids
	}
	if c := more.CPU; c != nil {
		if r.CPU == nil {
			r.CPU = &specs.LinuxCPU{}
		}
		r.CPU.RealtimePeriod, r.CPU.RealtimeRuntime = cmp.Or(c.RealtimePeriod, r.CPU.RealtimePeriod), cmp.Or(c.RealtimeRuntime, r.CPU.RealtimeRuntime)
	}
	if m := more.Memory; m != nil {
		if r.Memory == nil {
			r.Memory = &specs.LinuxMemory{}
		}
		r.Memory.Reservation = cmp.Or(m.Reservation, r.Memory.Reservation)
	}
}

// UpdateOOMScoreAdj gives the oom_score_adj that an update asks for, raised to the lowest
// that the daemon may set. It is nil if the update asks for none: as in all fields of an
// update, 0 means that.
func UpdateOOMScoreAdj(update *runtimeapi.LinuxContainerResources, h Host) *int {
	if update.GetOomScoreAdj() == 0 {
		return nil
	}
	return oomScoreAdj(update, h)
}

// oomScoreAdj is the score that was asked for, or the lowest that the daemon may set.
func oomScoreAdj(r *runtimeapi.LinuxContainerResources, h Host) *int {
	adj := int(r.GetOomScoreAdj())
	if !h.LowerOOM {
		adj = max(adj, h.OOMScoreAdj)
	}
	return &adj
}

// Unenforced describes the requested limits that have no effect on this host, in one
// sentence each that names the field. These are the limits that the kubelet sets on every
// container: if they were refused, no container could run here. A limit of another kind
// that can't be enforced is an error of [Plan] and [UpdateResources].
func Unenforced(r *runtimeapi.LinuxContainerResources, h Host) []string {
	var out []string
	if !h.Controllers["cpu"] && (r.GetCpuShares() > 0 || r.GetCpuPeriod() > 0) {
		out = append(out, "cpu_shares and cpu_period have no effect: this node has no cpu controller")
	}
	if !h.Controllers["hugetlb"] && len(r.GetHugepageLimits()) > 0 {
		out = append(out, "hugepage_limits of 0 have no effect: this node has no hugetlb controller")
	}
	if !h.SwapAccount && r.GetMemorySwapLimitInBytes() != 0 {
		out = append(out, "memory_swap_limit_in_bytes has no effect: this node does not account for swap")
	}
	return out
}

// checkControllers refuses a limit that somebody chose and nothing would enforce.
func checkControllers(r *runtimeapi.LinuxContainerResources, h Host) error {
	lack := func(field, controller string) error {
		return unsupported("resources.%s: this node has no %s controller to enforce it: leave it out, or mount the controller", field, controller)
	}
	switch {
	case !h.Controllers["cpuset"] && r.GetCpusetCpus()+r.GetCpusetMems() != "":
		return lack("cpuset_cpus, cpuset_mems", "cpuset")
	case !h.Controllers["cpu"] && r.GetCpuQuota() > 0:
		return lack("cpu_quota", "cpu")
	case !h.Controllers["memory"] && r.GetMemoryLimitInBytes() > 0:
		return lack("memory_limit_in_bytes", "memory")
	case !h.Controllers["hugetlb"] && slices.ContainsFunc(r.GetHugepageLimits(), func(l *runtimeapi.HugepageLimit) bool { return l.GetLimit() > 0 }):
		return lack("hugepage_limits", "hugetlb")
	}
	return nil
}

// ContainerResources tells the limits in a spec the way ContainerStatus does.
func ContainerResources(spec *specs.Spec) *runtimeapi.ContainerResources {
	var r *specs.LinuxResources
	if spec.Linux != nil {
		r = spec.Linux.Resources
	}
	out := criResources(r)
	if spec.Process != nil && spec.Process.OOMScoreAdj != nil {
		out.OomScoreAdj = int64(*spec.Process.OOMScoreAdj)
	}
	return &runtimeapi.ContainerResources{Linux: out}
}

func mergeResources(base, update *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	if update.GetMemoryLimitInBytes() != 0 {
		base.MemorySwapLimitInBytes = 0 // the old one was made for the old limit
	}
	base.CpuPeriod = cmp.Or(update.GetCpuPeriod(), base.CpuPeriod)
	base.CpuQuota = cmp.Or(update.GetCpuQuota(), base.CpuQuota)
	base.CpuShares = cmp.Or(update.GetCpuShares(), base.CpuShares)
	base.MemoryLimitInBytes = cmp.Or(update.GetMemoryLimitInBytes(), base.MemoryLimitInBytes)
	base.MemorySwapLimitInBytes = cmp.Or(update.GetMemorySwapLimitInBytes(), base.MemorySwapLimitInBytes)
	base.CpusetCpus = cmp.Or(update.GetCpusetCpus(), base.CpusetCpus)
	base.CpusetMems = cmp.Or(update.GetCpusetMems(), base.CpusetMems)
	for _, l := range update.GetHugepageLimits() {
		base.HugepageLimits = slices.DeleteFunc(base.HugepageLimits, func(x *runtimeapi.HugepageLimit) bool { return x.PageSize == l.PageSize })
		base.HugepageLimits = append(base.HugepageLimits, l)
	}
	if len(update.GetUnified()) > 0 {
		merged := maps.Clone(base.Unified)
		if merged == nil {
			merged = map[string]string{}
		}
		maps.Copy(merged, update.GetUnified())
		base.Unified = merged
	}
	return base
}

// criResources is the inverse of [linuxResources]; never nil.
func criResources(r *specs.LinuxResources) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{}
	if r == nil {
		return out
	}
	if c := r.CPU; c != nil {
		out.CpuPeriod, out.CpuQuota, out.CpuShares = int64(deref(c.Period)), deref(c.Quota), int64(deref(c.Shares))
		out.CpusetCpus, out.CpusetMems = c.Cpus, c.Mems
	}
	if m := r.Memory; m != nil {
		out.MemoryLimitInBytes, out.MemorySwapLimitInBytes = deref(m.Limit), deref(m.Swap)
	}
	for _, l := range r.HugepageLimits {
		out.HugepageLimits = append(out.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: l.Pagesize, Limit: l.Limit})
	}
	out.Unified = maps.Clone(r.Unified)
	return out
}

// linuxResources translates the limits. It leaves out those that [Unenforced] describes.
func linuxResources(r *runtimeapi.LinuxContainerResources, h Host) (*specs.LinuxResources, error) {
	for _, err := range []error{CheckResources(r), checkSwap(r), checkUnified(r, h), checkControllers(r, h)} {
		if err != nil {
			return nil, err
		}
	}
	out := &specs.LinuxResources{CPU: cpu(r, h), Memory: memory(r, h), Unified: maps.Clone(r.GetUnified())}
	if h.Controllers["hugetlb"] {
		for _, l := range r.GetHugepageLimits() {
			out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: l.GetPageSize(), Limit: l.GetLimit()})
		}
	}
	return out, nil
}

// maxCPUShares is the most that the kernel takes (MAX_SHARES in kernel/sched/core.c).
const maxCPUShares = 1 << 18

// CheckResources refuses limits that no kernel takes, wrapping [ErrInvalid]. What this
// host can enforce is for [Plan] and [UpdateResources] to tell.
func CheckResources(r *runtimeapi.LinuxContainerResources) error {
	switch limit, swap := r.GetMemoryLimitInBytes(), r.GetMemorySwapLimitInBytes(); {
	case r.GetCpuPeriod() < 0:
		return invalid("resources.cpu_period: %d must not be negative: give microseconds, or 0 to leave it", r.GetCpuPeriod())
	case r.GetCpuQuota() < -1:
		return invalid("resources.cpu_quota: %d is too low: give microseconds, -1 for no limit, or 0 to leave it", r.GetCpuQuota())
	case r.GetCpuShares() != 0 && (r.GetCpuShares() < 2 || r.GetCpuShares() > maxCPUShares):
		return invalid("resources.cpu_shares: %d is out of range: give 2 to 262144, or 0 to leave it", r.GetCpuShares())
	case limit < -1 || swap < -1:
		return invalid("resources.memory_limit_in_bytes, memory_swap_limit_in_bytes: %d, %d: give bytes, -1 for no limit, or 0 to leave it", limit, swap)
	case r.GetOomScoreAdj() < -1000 || r.GetOomScoreAdj() > 1000:
		return invalid("resources.oom_score_adj: %d: the kernel takes -1000 to 1000", r.GetOomScoreAdj())
	}
	if strings.ContainsAny(r.GetCpusetCpus()+r.GetCpusetMems(), "\x00/\n") {
		return invalid("resources.cpuset_cpus, cpuset_mems: give a list such as 0-3,7")
	}
	return checkPageSizes(r.GetHugepageLimits())
}

func checkPageSizes(limits []*runtimeapi.HugepageLimit) error {
	for _, l := range limits {
		if !pageSize.MatchString(l.GetPageSize()) {
			return invalid("resources.hugepage_limits: %s is not a page size: give one such as 2MB", clip(l.GetPageSize()))
		}
	}
	return nil
}

// pageSize is how the kernel writes one in the names of cgroup files.
var pageSize = regexp.MustCompile(`^[1-9][0-9]{0,9}[KMG]B$`)

// checkSwap: of an update this is asked when it is merged with what it changes.
func checkSwap(r *runtimeapi.LinuxContainerResources) error {
	limit, swap := r.GetMemoryLimitInBytes(), r.GetMemorySwapLimitInBytes()
	switch {
	case swap > 0 && limit <= 0:
		return invalid("resources.memory_swap_limit_in_bytes needs memory_limit_in_bytes")
	case swap > 0 && swap < limit:
		return invalid("resources.memory_swap_limit_in_bytes: %d counts memory and swap together, so it must be at least memory_limit_in_bytes, %d", swap, limit)
	}
	return nil
}

func checkUnified(r *runtimeapi.LinuxContainerResources, h Host) error {
	if len(r.GetUnified()) > 0 && !h.CgroupV2 {
		return unsupported("resources.unified needs cgroup v2")
	}
	for file := range r.GetUnified() {
		if strings.ContainsAny(file, "/\x00") || !strings.Contains(file, ".") {
			return invalid("resources.unified: %s is not the name of a cgroup file such as memory.high", clip(file))
		}
	}
	return nil
}

func cpu(r *runtimeapi.LinuxContainerResources, h Host) *specs.LinuxCPU {
	var c specs.LinuxCPU
	if h.Controllers["cpu"] {
		c.Shares, c.Period, c.Quota = positive(r.GetCpuShares()), positive(r.GetCpuPeriod()), nonZero(r.GetCpuQuota())
	}
	if h.Controllers["cpuset"] {
		c.Cpus, c.Mems = r.GetCpusetCpus(), r.GetCpusetMems()
	}
	if c == (specs.LinuxCPU{}) {
		return nil
	}
	return &c
}

// memory allows no swap unless it is asked for: a container that may swap without limit
// has no limit of memory either.
func memory(r *runtimeapi.LinuxContainerResources, h Host) *specs.LinuxMemory {
	limit := r.GetMemoryLimitInBytes()
	if !h.Controllers["memory"] || limit == 0 {
		return nil
	}
	m := &specs.LinuxMemory{Limit: &limit}
	if h.SwapAccount {
		m.Swap = nonZero(cmp.Or(r.GetMemorySwapLimitInBytes(), limit))
	}
	return m
}

func positive(n int64) *uint64 {
	if n <= 0 {
		return nil
	}
	u := uint64(n)
	return &u
}

func nonZero(n int64) *int64 {
	if n == 0 {
		return nil
	}
	return &n
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
