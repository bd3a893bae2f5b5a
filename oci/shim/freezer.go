package shim

import (
	iofs "io/fs"
	"os"
	"path/filepath"

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

// thaw lets frozen processes of the container, and of cgroups that it made below its
// own, die of a SIGKILL that was sent. A v1 cgroup keeps them from it; on v2 a kill
// reaches frozen ones (cgroup.freeze in Documentation/admin-guide/cgroup-v2.rst).
func (g group) thaw() {
	root := g["freezer"]
	if unified() || root == "" {
		return
	}
	_ = filepath.WalkDir(root, func(path string, d iofs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.WriteFile(filepath.Join(path, "freezer.state"), []byte(cgroups.Thawed), 0) // an error: the cgroup is gone
		}
		return nil
	})
}

// isFrozen reports whether the container is frozen.
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
