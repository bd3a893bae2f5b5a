package shim

import (
	"fmt"
	"slices"
	"sync"

	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// initLogLevel is logrus' number for warnings.
const initLogLevel = "3"

// usualDevices are the devices that libcontainer gives every container. Its own list
// is shared by all configurations made from it, and a user namespace changes the
// owners in it for good: containers of later pods would get devices that belong to
// users of that one. So each configuration is made from a copy.
var usualDevices = struct {
	sync.Mutex
	list []*devices.Device
}{list: specconv.AllowedDevices}

func libcontainerConfig(id string, spec *specs.Spec, systemd bool) (*configs.Config, error) {
	usualDevices.Lock()
	defer usualDevices.Unlock()
	specconv.AllowedDevices = copyDevices(usualDevices.list)
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: id, UseSystemdCgroup: systemd, Spec: spec})
	if err == nil {
		boundHooks(config)
	}
	return config, err
}

func copyDevices(list []*devices.Device) []*devices.Device {
	var out []*devices.Device
	for _, d := range list {
		own := *d
		out = append(out, &own)
	}
	return out
}

// rootOwner is the UID and GID on the host of the container's root; zeros without a user
// namespace.
func rootOwner(config *configs.Config) (owner [2]int, err error) {
	if owner[0], err = config.HostRootUID(); err != nil {
		return owner, err
	}
	owner[1], err = config.HostRootGID()
	return owner, err
}

var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU,
	"RLIMIT_DATA": unix.RLIMIT_DATA, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE,
	"RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_STACK": unix.RLIMIT_STACK,
}

// lockedMemory is the limit of this process as it started. A container that says none
// gets it by name, and does not inherit it: on cgroup v2 libcontainer takes the limit
// from this whole process, for good, as it loads the first device filter.
var lockedMemory = func() configs.Rlimit {
	own := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	_ = unix.Getrlimit(unix.RLIMIT_MEMLOCK, &own) // can't fail: the limit is known and the address valid
	return configs.Rlimit{Type: unix.RLIMIT_MEMLOCK, Soft: own.Cur, Hard: own.Max}
}()

// libcontainerProcess converts a process of the runtime-spec. It sets every value that is per
// process: for those that are not set, libcontainer uses the container's.
func libcontainerProcess(p *specs.Process) (*libcontainer.Process, error) {
	lp := &libcontainer.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd,
		UID: int(p.User.UID), GID: int(p.User.GID),
		Label: p.SelinuxLabel, AppArmorProfile: p.ApparmorProfile, NoNewPrivileges: &p.NoNewPrivileges,
		Scheduler: p.Scheduler, IOPriority: p.IOPriority, LogLevel: initLogLevel,
	}
	if lp.Cwd == "" {
		lp.Cwd = "/"
	}
	if p.ConsoleSize != nil {
		lp.ConsoleWidth, lp.ConsoleHeight = uint16(p.ConsoleSize.Width), uint16(p.ConsoleSize.Height)
	}
	if c := p.Capabilities; c != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable, Permitted: c.Permitted, Ambient: c.Ambient,
		}
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	for _, r := range p.Rlimits {
		number, ok := rlimits[r.Type]
		if !ok {
			return nil, fmt.Errorf("rlimit %q is not known", r.Type)
		}
		lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: number, Hard: r.Hard, Soft: r.Soft})
	}
	if !slices.ContainsFunc(lp.Rlimits, func(r configs.Rlimit) bool { return r.Type == unix.RLIMIT_MEMLOCK }) {
		lp.Rlimits = append(lp.Rlimits, lockedMemory)
	}
	var err error
	lp.CPUAffinity, err = configs.ConvertCPUAffinity(p.ExecCPUAffinity)
	return lp, err
}
