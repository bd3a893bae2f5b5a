package shim

import (
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
)

// freezerPath is where the container's processes are frozen, on v1 with those of the
// cgroups below; "" where the host has no freezer.
func (g group) freezerPath() string {
	if unified() {
		return g[""]
	}
	return g["freezer"]
}

// setFrozen freezes the container's processes and returns when they stand still, or
// thaws them.
func (g group) setFrozen(state cgroups.FreezerState) error {
	path := g.freezerPath()
	if unified() {
		m, err := fs2.NewManager(&cgroups.Cgroup{Resources: &cgroups.Resources{}}, path)
		if err != nil {
			return err
		}
		return m.Freeze(state)
	}
	return (&fs.FreezerGroup{}).Set(path, &cgroups.Resources{Freezer: state})
}

// isFrozen tells whether somebody has frozen the container.
func (g group) isFrozen() (bool, error) {
	path := g.freezerPath()
	var state cgroups.FreezerState
	var err error
	if unified() {
		var m *fs2.Manager
		if m, err = fs2.NewManager(&cgroups.Cgroup{Resources: &cgroups.Resources{}}, path); err == nil {
			state, err = m.GetFreezerState()
		}
	} else {
		state, err = (&fs.FreezerGroup{}).GetState(path)
	}
	return state == cgroups.Frozen, err
}
