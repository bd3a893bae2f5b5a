package nri

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/runtime-tools/generate"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/sandbox"
)

// errNoBlockIO: which limits a class stands for is in a file of the peers that berth does
// not have.
var errNoBlockIO = errors.New("this runtime has no classes of block I/O; give limits by linux.resources.unified instead")

// adjust makes in spec the changes that plugins ask for.
func adjust(spec *specs.Spec, a *api.ContainerAdjustment, h oci.Host) error {
	if a == nil {
		return nil
	}
	g := generate.SpecGenerator(newGenerator(spec),
		generate.WithResourceChecker(func(r *specs.LinuxResources) error {
			fitResources(r, h)
			return nil
		}),
		generate.WithRdtResolver(func(class string) (*specs.LinuxIntelRdt, error) { return &specs.LinuxIntelRdt{ClosID: class}, nil }),
		generate.WithBlockIOResolver(func(string) (*specs.LinuxBlockIO, error) { return nil, errNoBlockIO }),
		generate.WithCDIDeviceInjector(func(s *specs.Spec, names []string) error { return oci.InjectCDI(s, names, h.CDIDirs) }),
	)
	if err := g.Adjust(a); err != nil {
		return err
	}
	addMemory(spec.Linux.Resources, a.GetLinux().GetResources().GetMemory())
	if p := a.GetLinux().GetSeccompPolicy(); p != nil { // which the generator forgets
		if errno := p.GetDefaultErrno(); errno != nil {
			n := uint(errno.GetValue())
			spec.Linux.Seccomp.DefaultErrnoRet = &n
		}
	}
	spec.Process.Rlimits = lastOfType(spec.Process.Rlimits)
	return nil
}

// addRemovals puts into a what plugins have removed. The library removes variables and
// devices from its request, of which left is what became, and does not say so in a.
func addRemovals(spec *specs.Spec, left *api.Container, a *api.ContainerAdjustment) {
	variable := func(v string) string {
		name, _, _ := strings.Cut(v, "=")
		return name
	}
	for _, name := range removed(names(spec.Process.Env, variable), names(left.GetEnv(), variable)) {
		a.Env = append(a.Env, &api.KeyValue{Key: api.MarkForRemoval(name)})
	}
	before := names(spec.Linux.Devices, func(d specs.LinuxDevice) string { return d.Path })
	for _, path := range removed(before, names(left.GetLinux().GetDevices(), (*api.LinuxDevice).GetPath)) {
		if a.Linux == nil {
			a.Linux = &api.LinuxContainerAdjustment{}
		}
		a.Linux.Devices = append(a.Linux.Devices, &api.LinuxDevice{Path: api.MarkForRemoval(path)})
	}
}

func names[T any](all []T, of func(T) string) []string {
	out := make([]string, 0, len(all))
	for _, v := range all {
		out = append(out, of(v))
	}
	return out
}

// removed are those of before that are not left.
func removed(before, left []string) []string {
	return slices.DeleteFunc(before, func(name string) bool { return slices.Contains(left, name) })
}

// fitResources leaves out limits that this host does not account for, as for the same
// fields of the CRI.
func fitResources(r *specs.LinuxResources, h oci.Host) {
	if r == nil {
		return
	}
	if !h.Controllers["hugetlb"] {
		r.HugepageLimits = nil
	}
	if r.Memory != nil && !h.SwapAccount {
		r.Memory.Swap = nil
	}
}

// addMemory sets what of the memory's limits the generator forgets.
func addMemory(r *specs.LinuxResources, m *api.LinuxMemory) {
	if r == nil || m == nil {
		return
	}
	reservation, swap, swappiness := m.GetReservation().Get(), m.GetSwap().Get(), m.GetSwappiness().Get()
	if reservation == nil && swap == nil && swappiness == nil && m.GetDisableOomKiller() == nil {
		return
	}
	if r.Memory == nil {
		r.Memory = &specs.LinuxMemory{}
	}
	r.Memory.Reservation = cmp.Or(reservation, r.Memory.Reservation)
	r.Memory.Swap = cmp.Or(swap, r.Memory.Swap)
	r.Memory.Swappiness = cmp.Or(swappiness, r.Memory.Swappiness)
	r.Memory.DisableOOMKiller = cmp.Or(m.GetDisableOomKiller().Get(), r.Memory.DisableOOMKiller)
}

// lastOfType leaves the last limit of each type, which is the one that would count.
func lastOfType(all []specs.POSIXRlimit) []specs.POSIXRlimit {
	var out []specs.POSIXRlimit
	for _, l := range all {
		out = slices.DeleteFunc(out, func(o specs.POSIXRlimit) bool { return o.Type == l.Type })
		out = append(out, l)
	}
	return out
}

// limitsOf makes an update of what plugins ask for, which counts, and of what the client
// asked for; each may be nil.
func limitsOf(asked *runtimeapi.LinuxContainerResources, r *api.LinuxResources) (sandbox.NewLimits, error) {
	out := sandbox.NewLimits{LinuxContainerResources: &runtimeapi.LinuxContainerResources{}}
	if asked != nil {
		out.LinuxContainerResources = proto.Clone(asked).(*runtimeapi.LinuxContainerResources)
	}
	if r == nil {
		return out, nil
	}
	if r.GetBlockioClass().GetValue() != "" {
		return out, fmt.Errorf("blockio_class: %w", errNoBlockIO)
	}
	if r.GetRdtClass().GetValue() != "" {
		return out, errors.New("rdt_class: the class of a container can't change while it runs")
	}
	c, m := r.GetCpu(), r.GetMemory()
	out.CpuShares = cmp.Or(int64(c.GetShares().GetValue()), out.CpuShares)
	out.CpuQuota = cmp.Or(c.GetQuota().GetValue(), out.CpuQuota)
	out.CpuPeriod = cmp.Or(int64(c.GetPeriod().GetValue()), out.CpuPeriod)
	out.CpusetCpus = cmp.Or(c.GetCpus(), out.CpusetCpus)
	out.CpusetMems = cmp.Or(c.GetMems(), out.CpusetMems)
	out.MemoryLimitInBytes = cmp.Or(m.GetLimit().GetValue(), out.MemoryLimitInBytes)
	out.MemorySwapLimitInBytes = cmp.Or(m.GetSwap().GetValue(), out.MemorySwapLimitInBytes)
	if len(r.GetHugepageLimits()) > 0 {
		out.HugepageLimits = nil
	}
	for _, l := range r.GetHugepageLimits() {
		out.HugepageLimits = append(out.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: l.GetPageSize(), Limit: l.GetLimit()})
	}
	for file, value := range r.GetUnified() {
		if out.Unified == nil {
			out.Unified = make(map[string]string)
		}
		out.Unified[file] = value
	}
	out.More = moreOf(r)
	return out, nil
}

// moreOf are the limits that the CRI has no field for.
func moreOf(r *api.LinuxResources) *specs.LinuxResources {
	out := &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{RealtimePeriod: r.GetCpu().GetRealtimePeriod().Get(), RealtimeRuntime: r.GetCpu().GetRealtimeRuntime().Get()},
		Memory: &specs.LinuxMemory{Reservation: r.GetMemory().GetReservation().Get()},
	}
	if p := r.GetPids(); p != nil {
		limit := p.GetLimit()
		out.Pids = &specs.LinuxPids{Limit: &limit}
	}
	if out.CPU.RealtimePeriod == nil && out.CPU.RealtimeRuntime == nil {
		out.CPU = nil
	}
	if out.Memory.Reservation == nil {
		out.Memory = nil
	}
	return out
}
