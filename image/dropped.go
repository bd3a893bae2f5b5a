package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"berth/oci/dirtree"
)

// droppedPrefix starts the name of a dropped layer's directory, which goes on with the layer's
// ChainID: a later process has to know which containers may be mounted on it.
const droppedPrefix = ".dropped-"

// droppedLayer is a layer that [layerPool.drop] removed while containers were mounted on it.
// No new mount gets it, and its files stay until the last of these containers has ended.
type droppedLayer struct {
	path, chain string
	users       map[string]bool // keys of holds
}

// droppedFrom gives the dropped layer that an earlier process left under this name. Its users
// are not known yet: each hold before the sweep may be one.
func droppedFrom(dir, name string) (*droppedLayer, bool) {
	rest, ok := strings.CutPrefix(name, droppedPrefix)
	chain, _, _ := strings.Cut(rest, "-")
	if !ok || !isLayerName(chain) {
		return nil, false
	}
	return &droppedLayer{path: filepath.Join(dir, name), chain: "sha256:" + chain, users: map[string]bool{}}, true
}

// setAside takes the name of a layer from its directory and returns the new path, which is
// the caller's to delete; the next start deletes what is left of it. If containers may be
// mounted on the layer it becomes a dropped layer, and the path is "". It is called with
// renames locked.
func (p *layerPool) setAside(chain string) (free string, err error) {
	p.mu.Lock()
	stays := !p.swept || len(p.holdsOn(chain)) > 0
	p.mu.Unlock()
	prefix := tmpPrefix + "dead-"
	if stays {
		prefix = droppedPrefix + filepath.Base(p.path(chain)) + "-"
	}
	stamp := strconv.FormatInt(now().UnixNano(), 36) + "-" + strconv.FormatUint(p.nextKey(), 10)
	to := filepath.Join(p.dir, prefix+stamp)
	if err := os.Rename(p.path(chain), to); err != nil { // needs no space on a full disk
		return "", err
	}
	if stays && p.addDropped(to, chain) {
		return "", nil
	}
	return to, nil
}

// addDropped keeps the files of a dropped layer for the holds on it. It reports false when
// there are none any more.
func (p *layerPool) addDropped(path, chain string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	users := p.holdsOn(chain)
	if p.swept && len(users) == 0 {
		return false
	}
	p.dropped = append(p.dropped, &droppedLayer{path: path, chain: chain, users: users})
	return true
}

// holdsOn returns the keys of the holds on the layer that are not brief. It is called with mu
// locked.
func (p *layerPool) holdsOn(chain string) map[string]bool {
	keys := map[string]bool{}
	for key, chains := range p.holds {
		if !strings.HasPrefix(key, briefly) && slices.Contains(chains, chain) {
			keys[key] = true
		}
	}
	return keys
}

// useDropped notes that the hold of key is now one on these layers, and returns the paths of
// the dropped layers that have no users left. They are the caller's to delete. It is called
// with mu locked.
func (p *layerPool) useDropped(key string, chains []string) (free []string) {
	p.dropped = slices.DeleteFunc(p.dropped, func(d *droppedLayer) bool {
		switch {
		case !slices.Contains(chains, d.chain):
			delete(d.users, key)
		case !p.swept:
			d.users[key] = true
		}
		if !p.swept || len(d.users) > 0 {
			return false
		}
		free = append(free, d.path)
		return true
	})
	return free
}

// isDropped tells whether there are files of the layer for the containers that an earlier
// process left, which are the only ones to hold layers before the sweep. It is called with mu
// locked.
func (p *layerPool) isDropped(chain string) bool {
	return !p.swept && slices.ContainsFunc(p.dropped, func(d *droppedLayer) bool { return d.chain == chain })
}

// removeAll deletes directories until ctx ends. The next start deletes what is left.
func removeAll(ctx context.Context, paths []string) error {
	var errs []error
	for _, path := range paths {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		errs = append(errs, dirtree.Remove(ctx, path))
	}
	return errors.Join(errs...)
}
