package nri

import (
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// generator gives the NRI library's generator of specs the strokes it needs. The module
// that has them, runtime-tools, has no release for runtime-spec 1.3. It needs a spec with
// its parts process, linux and linux.resources, as every one of berth's has them.
type generator struct{ spec *specs.Spec }

func newGenerator(spec *specs.Spec) generator {
	g := generator{spec}
	if spec.Linux.Resources == nil {
		spec.Linux.Resources = &specs.LinuxResources{}
	}
	return g
}

// Spec is the spec that is edited, as are the results of the other methods.
func (g generator) Spec() *specs.Spec { return g.spec }

// replace puts v in the place of the first element that is the same thing, or at the end.
func replace[T any](all []T, v T, same func(T) bool) []T {
	if i := slices.IndexFunc(all, same); i >= 0 {
		all[i] = v
		return all
	}
	return append(all, v)
}

func made[T any](p **T) *T {
	if *p == nil {
		*p = new(T)
	}
	return *p
}

func put(m *map[string]string, key, value string) {
	if *m == nil {
		*m = make(map[string]string)
	}
	(*m)[key] = value
}

func (g generator) AddAnnotation(key, value string) { put(&g.spec.Annotations, key, value) }
func (g generator) RemoveAnnotation(key string)     { delete(g.spec.Annotations, key) }

func (g generator) AddDevice(d specs.LinuxDevice) {
	l := g.spec.Linux
	l.Devices = replace(l.Devices, d, func(o specs.LinuxDevice) bool { return o.Path == d.Path })
}

// RemoveDevice removes the node, and what allows to use it unless another node needs that.
func (g generator) RemoveDevice(path string) {
	l, r := g.spec.Linux, g.resources()
	i := slices.IndexFunc(l.Devices, func(o specs.LinuxDevice) bool { return o.Path == path })
	if i < 0 {
		return
	}
	gone := l.Devices[i]
	l.Devices = slices.Delete(l.Devices, i, i+1)
	if slices.ContainsFunc(l.Devices, func(o specs.LinuxDevice) bool { return sameDevice(o, gone) }) {
		return
	}
	r.Devices = slices.DeleteFunc(r.Devices, func(rule specs.LinuxDeviceCgroup) bool {
		return rule.Allow && rule.Major != nil && rule.Minor != nil &&
			sameDevice(specs.LinuxDevice{Type: rule.Type, Major: *rule.Major, Minor: *rule.Minor}, gone)
	})
}

func sameDevice(a, b specs.LinuxDevice) bool {
	return a.Type == b.Type && a.Major == b.Major && a.Minor == b.Minor
}

// namespaceTypes are the names that tools such as unshare(1) have for the namespaces, and
// those of the runtime-spec.
var namespaceTypes = map[string]specs.LinuxNamespaceType{
	"network": specs.NetworkNamespace, "net": specs.NetworkNamespace, "pid": specs.PIDNamespace,
	"mount": specs.MountNamespace, "mnt": specs.MountNamespace, "ipc": specs.IPCNamespace, "uts": specs.UTSNamespace,
	"user": specs.UserNamespace, "cgroup": specs.CgroupNamespace, "time": specs.TimeNamespace,
}

func (g generator) AddOrReplaceLinuxNamespace(name, path string) error {
	kind, ok := namespaceTypes[name]
	if !ok {
		return fmt.Errorf("namespaces: there is no namespace %.80q", name)
	}
	l := g.spec.Linux
	l.Namespaces = replace(l.Namespaces, specs.LinuxNamespace{Type: kind, Path: path}, func(n specs.LinuxNamespace) bool { return n.Type == kind })
	return nil
}

func (g generator) RemoveLinuxNamespace(name string) error {
	kind, ok := namespaceTypes[name]
	if !ok {
		return fmt.Errorf("namespaces: there is no namespace %.80q", name)
	}
	l := g.spec.Linux
	l.Namespaces = slices.DeleteFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
	return nil
}

func (g generator) AddPreStartHook(h specs.Hook) {
	hooks := made(&g.spec.Hooks)
	hooks.Prestart = append(hooks.Prestart, h) //nolint:staticcheck // deprecated, and still asked for
}

func (g generator) AddPostStartHook(h specs.Hook) {
	hooks := made(&g.spec.Hooks)
	hooks.Poststart = append(hooks.Poststart, h)
}

func (g generator) AddPostStopHook(h specs.Hook) {
	hooks := made(&g.spec.Hooks)
	hooks.Poststop = append(hooks.Poststop, h)
}

func (g generator) AddProcessEnv(name, value string) {
	p, prefix := g.spec.Process, name+"="
	p.Env = replace(p.Env, prefix+value, func(o string) bool { return strings.HasPrefix(o, prefix) })
}

func (g generator) ClearProcessEnv()             { g.spec.Process.Env = nil }
func (g generator) SetProcessArgs(args []string) { g.spec.Process.Args = args }
func (g generator) SetProcessOOMScoreAdj(n int)  { g.spec.Process.OOMScoreAdj = &n }

func (g generator) AddMount(m specs.Mount) { g.spec.Mounts = append(g.spec.Mounts, m) }
func (g generator) ClearMounts()           { g.spec.Mounts = nil }
func (g generator) Mounts() []specs.Mount  { return g.spec.Mounts }

func (g generator) RemoveMount(destination string) {
	g.spec.Mounts = slices.DeleteFunc(g.spec.Mounts, func(m specs.Mount) bool { return m.Destination == destination })
}

func (g generator) AddLinuxSysctl(key, value string) { put(&g.spec.Linux.Sysctl, key, value) }
func (g generator) RemoveLinuxSysctl(key string)     { delete(g.spec.Linux.Sysctl, key) }
func (g generator) SetLinuxCgroupsPath(path string)  { g.spec.Linux.CgroupsPath = path }
func (g generator) resources() *specs.LinuxResources { return made(&g.spec.Linux.Resources) }
func (g generator) cpu() *specs.LinuxCPU             { return made(&g.resources().CPU) }
func (g generator) memory() *specs.LinuxMemory       { return made(&g.resources().Memory) }

func (g generator) SetLinuxRootPropagation(p string) error {
	g.spec.Linux.RootfsPropagation = p
	return nil
}

func (g generator) AddLinuxResourcesDevice(allow bool, kind string, major, minor *int64, access string) {
	r := g.resources()
	r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: major, Minor: minor, Access: access})
}

func (g generator) AddLinuxResourcesHugepageLimit(size string, limit uint64) {
	r, l := g.resources(), specs.LinuxHugepageLimit{Pagesize: size, Limit: limit}
	r.HugepageLimits = replace(r.HugepageLimits, l, func(o specs.LinuxHugepageLimit) bool { return o.Pagesize == size })
}

func (g generator) AddLinuxResourcesUnified(key, value string) {
	put(&g.resources().Unified, key, value)
}
func (g generator) SetLinuxResourcesCPUShares(n uint64)         { g.cpu().Shares = &n }
func (g generator) SetLinuxResourcesCPUQuota(n int64)           { g.cpu().Quota = &n }
func (g generator) SetLinuxResourcesCPUPeriod(n uint64)         { g.cpu().Period = &n }
func (g generator) SetLinuxResourcesCPURealtimeRuntime(n int64) { g.cpu().RealtimeRuntime = &n }
func (g generator) SetLinuxResourcesCPURealtimePeriod(n uint64) { g.cpu().RealtimePeriod = &n }
func (g generator) SetLinuxResourcesCPUCpus(list string)        { g.cpu().Cpus = list }
func (g generator) SetLinuxResourcesCPUMems(list string)        { g.cpu().Mems = list }
func (g generator) SetLinuxResourcesMemoryLimit(n int64)        { g.memory().Limit = &n }
func (g generator) SetLinuxResourcesMemorySwap(n int64)         { g.memory().Swap = &n }
