package leaks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"berth/oci/flock"
)

// Node is where a daemon keeps everything.
type Node struct {
	Root, State string // absolute
	CNIConfDir  string
	CNIBinDirs  []string
	// CNIDelTimeout bounds one DEL; 0: the usual time.
	CNIDelTimeout time.Duration
	holdsLocks    bool
}

// Thing is something that exists.
type Thing struct {
	Kind string // such as mount
	Name string // a path, or a process with its command
	Why  string // what it lacks

	gone   func() bool
	remove func(context.Context) error
}

// The kinds, in the order in which things are removed: what uses others comes first.
const (
	kindProcess   = "process"
	kindNetwork   = "network"
	kindMount     = "mount"
	kindCgroup    = "cgroup"
	kindShim      = "shim"
	kindDirectory = "directory"
	kindLayer     = "layer"
	kindFile      = "file"
)

var order = []string{kindProcess, kindNetwork, kindMount, kindCgroup, kindShim, kindDirectory, kindLayer, kindFile}

// ErrRunning is the refusal to change anything while a daemon works.
var ErrRunning = errors.New("berthd is running")

// lockName is the file that a running daemon holds locked, see package server.
const lockName = "berthd.lock"

// Lock keeps every daemon from starting on the node until the returned function is called.
// The error wraps [ErrRunning] when one runs.
func (n *Node) Lock() (unlock func(), err error) {
	var held []*os.File
	unlock = func() {
		for _, f := range held {
			_ = f.Close() // the lock goes with it
		}
		n.holdsLocks = false
	}
	for _, dir := range []string{n.Root, n.State} {
		f, err := flock.Try(filepath.Join(dir, lockName))
		switch {
		case errors.Is(err, flock.ErrLocked):
			unlock()
			return nil, fmt.Errorf("%w: it has %s", ErrRunning, dir)
		case errors.Is(err, os.ErrNotExist): // no such directory
		case err != nil:
			unlock()
			return nil, err
		default:
			held = append(held, f)
		}
	}
	n.holdsLocks = true
	return unlock, nil
}

// running tells whether a daemon works on the node.
func (n *Node) running() bool {
	if n.holdsLocks {
		return false
	}
	unlock, err := n.Lock()
	if err != nil {
		return true
	}
	unlock()
	return false
}

// Find lists what belongs to no record, in the order in which it is to be removed. What
// can't be looked at is in the error, beside the rest.
func (n *Node) Find() ([]Thing, error) {
	running := n.running()
	things, errs := n.exists(running)
	recs, err := n.records() // after the things, see doc.go
	if err != nil {
		return nil, errors.Join(errs, err)
	}
	var left []Thing
	for _, t := range things {
		if t.Why = recs.lacks(t); t.Why != "" && !t.gone() {
			left = append(left, t.Thing)
		}
	}
	slices.SortStableFunc(left, func(a, b Thing) int { return slices.Index(order, a.Kind) - slices.Index(order, b.Kind) })
	return left, errs
}

// Repair removes things that were found. The node must be locked. It goes on past errors.
func (n *Node) Repair(ctx context.Context, things []Thing) error {
	if !n.holdsLocks {
		return ErrRunning
	}
	var errs []error
	for _, t := range things {
		if ctx.Err() != nil {
			return errors.Join(append(errs, context.Cause(ctx))...)
		}
		if err := t.remove(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", t.Kind, t.Name, err))
		}
	}
	return errors.Join(errs...)
}

// owned is a thing with what it must be named by.
type owned struct {
	Thing
	pod, container, layer string // the IDs of which one must have a record
	podPart               string // the beginning of a pod's ID
	pid                   int    // of a process that must be a pod's or container's, with its start time
	start                 uint64
	stray                 string // why it is of no use to anyone, whatever the records say
}

// exists lists what there is and may be a leak, whatever the records say.
func (n *Node) exists(running bool) ([]owned, error) {
	lists := []func() ([]owned, error){n.processes, n.networks, n.mounts, n.cgroups, n.shims, n.directories, n.temporaries}
	if !running {
		// A pull makes layers before the image that names them.
		lists = append(lists, n.layers)
	}
	var all []owned
	var errs []error
	for _, list := range lists {
		found, err := list()
		all, errs = append(all, found...), append(errs, err)
	}
	return all, errors.Join(errs...)
}

// isGone is true of a path that does not exist.
func isGone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}

// names lists a directory; one that does not exist is empty.
func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, err
}
