package leaks

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"berth/oci/atomicfile"
	"berth/oci/dirtree"
	"berth/oci/flock"
	"berth/oci/shimapi"
)

// directory is a file, or a tree that goes as a whole.
func directory(kind, path string) owned {
	return owned{Thing: Thing{
		Kind: kind, Name: path,
		gone:   func() bool { return isGone(path) },
		remove: func(ctx context.Context) error { return remove(ctx, path) },
	}}
}

func remove(ctx context.Context, path string) error {
	if st, err := os.Lstat(path); err == nil && !st.IsDir() {
		return os.Remove(path)
	}
	return dirtree.Remove(ctx, path)
}

// directories are those of pods and containers: their records and what is only of this boot.
func (n *Node) directories() ([]owned, error) {
	var out []owned
	var errs []error
	add := func(below string, name func(*owned, string)) []string {
		all, err := names(below)
		errs = append(errs, err)
		for _, id := range all {
			d := directory(kindDirectory, filepath.Join(below, id))
			name(&d, id)
			out = append(out, d)
		}
		return all
	}
	ofPod := func(d *owned, id string) { d.pod = id }
	ofContainer := func(d *owned, id string) { d.container = id }
	for _, pod := range add(filepath.Join(n.Root, "pods"), ofPod) {
		add(filepath.Join(n.Root, "pods", pod, "containers"), ofContainer)
	}
	add(filepath.Join(n.State, "pods"), ofPod)
	add(filepath.Join(n.State, "containers"), ofContainer)
	return out, errors.Join(errs...)
}

// layers are the unpacked ones, and what is left of pulls that were cut off.
func (n *Node) layers() ([]owned, error) {
	dir := filepath.Join(n.Root, "layers")
	all, err := names(dir)
	var out []owned
	for _, name := range all {
		l := directory(kindLayer, filepath.Join(dir, name))
		switch {
		case strings.HasPrefix(name, atomicfile.TempPrefix):
			l.stray = "of a pull or a removal that was cut off"
		case strings.HasPrefix(name, "."):
			continue // the store's own
		default:
			l.layer = name
		}
		out = append(out, l)
	}
	return out, err
}

// oldEnough is the age from which nobody writes a temporary file any more: a write takes
// milliseconds, on a disk that does not answer a minute.
const oldEnough = 10 * time.Minute

// temporaries are files and directories that are renamed or removed at once, unless their
// maker is killed.
func (n *Node) temporaries() ([]owned, error) {
	var out []owned
	var errs []error
	for _, pattern := range []string{
		"/" + atomicfile.TempPrefix + "*", "/.berth-check*", "/images/" + atomicfile.TempPrefix + "*", "/cni/*/" + atomicfile.TempPrefix + "*",
		"/pods/*/" + atomicfile.TempPrefix + "*", "/pods/*/containers/*/" + atomicfile.TempPrefix + "*",
	} {
		found, err := filepath.Glob(n.Root + pattern)
		errs = append(errs, err)
		for _, path := range found {
			st, err := os.Lstat(path)
			if err != nil || time.Since(st.ModTime()) < oldEnough {
				continue
			}
			f := directory(kindFile, path)
			f.stray = "its maker was killed"
			out = append(out, f)
		}
	}
	return out, errors.Join(errs...)
}

// shims are the directories of shims that are dead.
func (n *Node) shims() ([]owned, error) {
	dir := filepath.Join(n.State, "shims")
	all, err := names(dir)
	var out []owned
	for _, id := range all {
		path := filepath.Join(dir, id)
		if n.shimLives(path) {
			continue
		}
		s := directory(kindShim, path)
		s.gone = func() bool { return isGone(path) || n.shimLives(path) }
		s.stray = "its shim is dead"
		out = append(out, s)
	}
	return out, err
}

// shimLives tells whether a process holds the lock of a shim's directory, as a shim does
// from before its start to its end. A daemon that has just made the directory holds it not
// yet; such a one is taken for alive.
func (n *Node) shimLives(dir string) bool {
	if isGone(filepath.Join(dir, shimapi.LockName)) {
		st, err := os.Stat(dir)
		return err == nil && time.Since(st.ModTime()) < oldEnough
	}
	f, err := flock.Try(filepath.Join(dir, shimapi.LockName))
	if err != nil {
		return true
	}
	f.Close()
	return false
}

// podID is how pods and containers are named.
var podID = regexp.MustCompile(`[0-9a-f]{64}`)
