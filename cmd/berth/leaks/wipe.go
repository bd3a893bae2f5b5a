package leaks

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"berth/oci/cgroup"
	"berth/oci/procfs"
	"berth/oci/shimapi"
	"berth/sandbox/record"
)

// Everything lists all that the node has, whatever its records say: what a wipe removes. Of
// images only with that flag.
func (n *Node) Everything(images bool) ([]Thing, error) {
	recs, err := n.records()
	if err != nil {
		return nil, err
	}
	all, errs := n.exists(false)
	shims, err := n.livingShims()
	processes, perr := n.recorded(recs)
	all = slices.Concat(shims, processes, all)
	for _, dir := range []string{filepath.Join(n.Root, "quarantine"), filepath.Join(n.State, "shims"), filepath.Join(n.Root, "cni")} {
		all = append(all, directory(kindDirectory, dir))
	}
	if images {
		all = append(all, directory(kindLayer, filepath.Join(n.Root, "layers")), directory(kindDirectory, filepath.Join(n.Root, "images")))
	}
	var out []Thing
	for _, t := range all {
		if t.Kind == kindLayer && !images || t.gone() {
			continue
		}
		t.Why = "it is there"
		if !slices.ContainsFunc(out, func(o Thing) bool { return o.Kind == t.Kind && o.Name == t.Name }) {
			out = append(out, t.Thing)
		}
	}
	slices.SortStableFunc(out, func(a, b Thing) int { return slices.Index(order, a.Kind) - slices.Index(order, b.Kind) })
	return out, errors.Join(errs, err, perr)
}

// livingShims come first: whatever else is ended, they would report and record.
func (n *Node) livingShims() ([]owned, error) {
	all, err := names("/proc")
	var out []owned
	for _, name := range all {
		if pid, err := strconv.Atoi(name); err == nil && n.shimDir(pid) != "" {
			out = append(out, process(pid, shimName))
		}
	}
	return out, err
}

// recorded are the pause processes, and the cgroups of containers, that the records tell of.
// The network is detached while the namespaces are there, which mounts keep.
func (n *Node) recorded(recs *records) ([]owned, error) {
	boot, err := procfs.BootID()
	if err != nil {
		return nil, err
	}
	var out []owned
	for pod := range recs.pods {
		dir := filepath.Join(n.Root, "pods", pod)
		var p record.Pod
		_, rerr := recs.read(filepath.Join(dir, record.PodFile), &p)
		err = errors.Join(err, rerr)
		if p.BootID == boot && p.PausePID > 1 && procfs.Lives(p.PausePID, p.PauseStart) == nil {
			out = append(out, process(p.PausePID, "pause"))
		}
		containers, cerr := names(filepath.Join(dir, "containers"))
		err = errors.Join(err, cerr)
		for _, ctr := range containers {
			var fact shimapi.Record
			_, rerr := recs.read(filepath.Join(dir, "containers", ctr, shimapi.RecordName), &fact)
			err = errors.Join(err, rerr)
			if dirs := cgroupsOf(ctr, fact); fact.BootID == boot && len(dirs) > 0 {
				out = append(out, owned{Thing: Thing{
					Kind: kindCgroup, Name: "of container " + ctr,
					gone:   func() bool { return !slices.ContainsFunc(dirs, func(d string) bool { return !isGone(d) }) },
					remove: func(context.Context) error { return removeCgroups(dirs) },
				}})
			}
		}
	}
	return out, err
}

// cgroupsOf are the container's own, which have its ID for a name: a parent is shared.
func cgroupsOf(ctr string, fact shimapi.Record) []string {
	var out []string
	for _, dir := range fact.CgroupPaths {
		if strings.Contains(filepath.Base(dir), ctr) {
			out = append(out, dir)
		}
	}
	return out
}

// Wipe removes things that [Node.Everything] listed. The node must be locked. It goes on
// past errors.
func (n *Node) Wipe(ctx context.Context, things []Thing) error {
	if !n.holdsLocks {
		return ErrRunning
	}
	var errs []error
	for _, t := range things {
		if t.Kind == kindProcess && strings.HasSuffix(t.Name, "("+shimName+")") {
			errs = append(errs, t.remove(ctx)) // they would record and report what follows
		}
	}
	for _, t := range things {
		if t.Kind == kindCgroup {
			errs = append(errs, t.remove(ctx)) // containers use what the rest is
		}
	}
	errs = append(errs, n.Repair(ctx, things))
	// What held the shims has the pause processes and foreign shims too.
	errs = append(errs, removeCgroups(cgroup.Named(shimapi.ShimCgroup(n.State))))
	for _, dirs := range cgroup.MarkedFor(n.State) { // emptied by now
		errs = append(errs, removeCgroups(dirs))
	}
	for _, path := range []string{filepath.Join(n.State, "streams.crt"), filepath.Join(n.Root, "sandbox-rootfs")} {
		errs = append(errs, remove(ctx, path))
	}
	return errors.Join(errs...)
}
