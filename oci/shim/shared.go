package shim

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"runtime"
	"sync"
	"weak"

	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// shared keeps one of several equal values, for as long as anybody uses it: it holds weak
// pointers only, so that values which no container has any more take no memory. The values
// must not be changed. The zero value is ready for use.
type shared[T any] struct {
	mu    sync.Mutex
	known map[digest]weak.Pointer[T]
}

// digest stands for a value. Whoever makes the specs chooses the values, so it has to be one
// for which no two values can be found.
type digest = [sha256.Size]byte

// of returns the value that a digest stands for. If nobody has it, build makes it; a nil that
// build returns is not kept.
func (s *shared[T]) of(key digest, build func() (*T, error)) (*T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.known[key].Value(); v != nil {
		return v, nil
	}
	v, err := build()
	if err != nil || v == nil {
		return nil, err
	}
	if s.known == nil {
		s.known = map[digest]weak.Pointer[T]{}
	}
	s.known[key] = weak.Make(v)
	runtime.AddCleanup(v, s.forget, key)
	return v, nil
}

// forget removes what is left of a value that nobody has any more. An equal one may have been
// made since.
func (s *shared[T]) forget(key digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[key].Value() == nil {
		delete(s.known, key)
	}
}

// like returns the value that is equal to one that was made already.
func (s *shared[T]) like(v *T) (*T, error) {
	if v == nil {
		return nil, nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("compare with other containers: %w", err)
	}
	return s.of(sha256.Sum256(text), func() (*T, error) { return v, nil })
}

// These are what libcontainer keeps of each container and what most containers have in
// common. Nothing here or in libcontainer changes them.
var (
	seccompProfiles shared[configs.Seccomp]
	// adoptedProfiles are seccomp profiles by what libcontainer has made of them.
	adoptedProfiles shared[configs.Seccomp]
	capabilitySets  shared[configs.Capabilities]
	deviceRules     shared[[]*devices.Rule]
)

// parts are the shared values that a container uses. It holds them itself, because a
// configuration may hold only what they point to.
type parts struct {
	seccomp      *configs.Seccomp
	capabilities *configs.Capabilities
	rules        *[]*devices.Rule
}

// share takes the capabilities and device rules that are equal to these.
func (p *parts) share(capabilities *configs.Capabilities, rules []*devices.Rule) (err error) {
	if p.capabilities, err = capabilitySets.like(capabilities); err != nil {
		return err
	}
	p.rules, err = deviceRules.like(&rules)
	return err
}

// shareParts gives a new configuration the seccomp profile of a text of the runtime-spec, and
// has it share that, its capabilities and its device rules with other containers.
func shareParts(config *configs.Config, profile json.RawMessage) (p parts, err error) {
	if p.seccomp, err = seccompOf(profile); err != nil {
		return p, fmt.Errorf("seccomp: %w", err)
	}
	if err := p.share(config.Capabilities, copyRules(config.Cgroups.Resources.Devices)); err != nil {
		return p, err
	}
	config.Seccomp, config.Capabilities, config.Cgroups.Resources.Devices = p.seccomp, p.capabilities, *p.rules
	return p, nil
}

// shareAdopted is [shareParts] of a container that libcontainer has loaded, and whose
// configuration can't be replaced, but what it points to can.
func shareAdopted(config *configs.Config) (p parts, err error) {
	if p.seccomp, err = adoptedProfiles.like(config.Seccomp); err != nil {
		return p, err
	}
	if err := p.share(config.Capabilities, config.Cgroups.Resources.Devices); err != nil {
		return p, err
	}
	if p.seccomp != nil && p.seccomp != config.Seccomp {
		*config.Seccomp = *p.seccomp
	}
	if p.capabilities != nil && p.capabilities != config.Capabilities {
		*config.Capabilities = *p.capabilities
	}
	config.Cgroups.Resources.Devices = *p.rules
	return p, nil
}

// copyRules copies device rules, those of devices that libcontainer makes would keep all of
// the device. Appending to the copy makes another.
func copyRules(from []*devices.Rule) []*devices.Rule {
	rules, list := make([]devices.Rule, len(from)), make([]*devices.Rule, len(from))
	for i, r := range from {
		rules[i], list[i] = *r, &rules[i]
	}
	return list
}

// readSpec reads a spec of the runtime-spec but for its seccomp profile, which is some hundred
// rules that are the same in most containers, and returns the text of that. See [seccompOf].
func readSpec(text json.RawMessage) (spec *specs.Spec, profile json.RawMessage, err error) {
	var read struct {
		specs.Spec
		Linux *struct {
			specs.Linux
			Seccomp json.RawMessage `json:"seccomp"`
		} `json:"linux"`
	}
	if err := json.Unmarshal(text, &read); err != nil {
		return nil, nil, err
	}
	if read.Linux != nil {
		read.Spec.Linux, profile = &read.Linux.Linux, read.Linux.Seccomp
	}
	return &read.Spec, profile, nil
}

// seccompOf is libcontainer's form of a seccomp profile of the runtime-spec; nil: it has none.
func seccompOf(profile json.RawMessage) (*configs.Seccomp, error) {
	if len(profile) == 0 {
		return nil, nil
	}
	return seccompProfiles.of(sha256.Sum256(profile), func() (*configs.Seccomp, error) {
		read, err := readProfile(profile)
		if err != nil {
			return nil, err
		}
		return specconv.SetupSeccomp(read)
	})
}

// readProfile reads a seccomp profile of the runtime-spec; nil: there is none.
func readProfile(profile json.RawMessage) (read *specs.LinuxSeccomp, err error) {
	if len(profile) > 0 {
		err = json.Unmarshal(profile, &read)
	}
	return read, err
}

// forgetMade removes from the configuration of a container that was made what no later call
// needs, of this package or of libcontainer. An exec would pass all of it to its process.
func forgetMade(config *configs.Config) {
	config.Mounts, config.MaskPaths, config.ReadonlyPaths = nil, nil, nil
	config.Devices, config.NetDevices, config.Networks, config.Routes, config.Sysctl = nil, nil, nil, nil, nil
	for kind := range config.Hooks {
		if kind != configs.Poststop {
			delete(config.Hooks, kind)
		}
	}
}
