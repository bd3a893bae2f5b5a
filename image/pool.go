package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"berth/oci/dirtree"
)

const (
	tmpPrefix = ".tmp-"
	emptyDir  = ".empty"
)

// layerPool owns ROOT/layers: the complete layers, the number of references to each, and
// the deletion of layers without references. Images, holds and pulls have references.
type layerPool struct {
	dir string
	bg  *background

	renames sync.Mutex // see "Locks" in doc.go

	mu      sync.Mutex
	layers  map[string]*layerInfo // by ChainID
	holds   map[string][]string   // ChainIDs, by the key of the hold
	absent  map[string]int        // references to layers that are not there, by ChainID
	dropped []*droppedLayer
	swept   bool
	left    []string // paths of the .tmp directories that an earlier process left
	keys    uint64   // counter for the keys of brief holds and the names of layers to be deleted
}

// layerInfo is a complete layer.
type layerInfo struct {
	bytes, inodes uint64
	known         bool // bytes and inodes are known
	refs          int  // references by images, holds and pulls
}

// openPool reads the directory, which it creates if it does not exist: the complete layers
// in it, and the dropped layers and temporary directories that an earlier process left.
func openPool(dir string, bg *background) (*layerPool, error) {
	p := &layerPool{
		dir: dir, bg: bg,
		layers: map[string]*layerInfo{}, holds: map[string][]string{}, absent: map[string]int{},
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, emptyDir), 0o700),
		os.MkdirAll(p.emptyLower(0), 0o755), os.MkdirAll(p.emptyLower(1), 0o755)); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := e.Name()
		if d, ok := droppedFrom(dir, name); ok {
			p.dropped = append(p.dropped, d)
			continue
		}
		switch {
		case strings.HasPrefix(name, tmpPrefix):
			p.left = append(p.left, filepath.Join(dir, name))
		case isLayerName(name) && e.IsDir():
			p.layers["sha256:"+name] = &layerInfo{}
		}
	}
	return p, nil
}

// isLayerName tells whether a directory of ROOT/layers with this name is a complete layer.
func isLayerName(name string) bool { return isHex(name) && len(name) == 64 }

// path returns the directory of a complete layer.
func (p *layerPool) path(chain string) string {
	return filepath.Join(p.dir, strings.TrimPrefix(chain, "sha256:"))
}

// emptyLower returns the path of the i-th (0 or 1) empty lower directory.
func (p *layerPool) emptyLower(i int) string {
	return filepath.Join(p.dir, emptyDir, strconv.Itoa(i))
}

// chains returns the ChainIDs of the complete layers.
func (p *layerPool) chains() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]string, 0, len(p.layers))
	for c := range p.layers {
		out = append(out, c)
	}
	return out
}

// ref adds a reference to each layer of an image, and takes over the sizes of the layers
// from the image's record. If a layer does not exist it fails with [ErrNotFound] and adds
// no reference.
func (p *layerPool) ref(layers []layerRecord) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range layers {
		if p.layers[l.ChainID] == nil {
			return missing(l.ChainID)
		}
	}
	for _, l := range layers {
		info := p.layers[l.ChainID]
		info.refs++
		if l.Bytes > 0 {
			info.bytes, info.inodes, info.known = l.Bytes, l.Inodes, true
		}
	}
	return nil
}

func missing(chains ...string) error {
	names := strings.Join(chains, ", layer ")
	return fmt.Errorf("%w: the store lacks layer %s; pull the image again", ErrNotFound, names)
}

// refPresent adds a reference to the layer if it is complete, and reports whether it is.
func (p *layerPool) refPresent(chain string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	info := p.layers[chain]
	if info != nil {
		info.refs++
	}
	return info != nil
}

// unref removes a reference from each of the layers, and deletes those that have none left.
func (p *layerPool) unref(chains []string) {
	if len(chains) == 0 {
		return
	}
	p.mu.Lock()
	for _, c := range chains {
		p.refer(c, -1)
	}
	p.mu.Unlock()
	p.collect(p.bg.ctx, chains) //nolint:errcheck // the next sweep deletes what is left
}

// refer adds n to the references to a layer, and reports whether the layer is there. If it is
// not, they are kept for a layer that is made in its place. It is called with mu locked.
func (p *layerPool) refer(chain string, n int) bool {
	if info := p.layers[chain]; info != nil {
		info.refs += n
		return true
	}
	if p.absent[chain] += n; p.absent[chain] == 0 {
		delete(p.absent, chain)
	}
	return false
}

// collect deletes those of the layers that have no references. Each is first renamed, so
// that a crash during the deletion, or the end of ctx, leaves no directory that looks like
// a complete layer.
func (p *layerPool) collect(ctx context.Context, chains []string) error {
	var errs []error
	var renamed []string
	p.renames.Lock()
	for _, c := range chains {
		p.mu.Lock()
		info := p.layers[c]
		free := info != nil && info.refs <= 0 && p.swept
		if free {
			delete(p.layers, c)
		}
		p.mu.Unlock()
		if !free {
			continue
		}
		tmp, err := p.setAside(c)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if tmp != "" {
			renamed = append(renamed, tmp)
		}
	}
	p.renames.Unlock()
	return errors.Join(append(errs, removeAll(ctx, renamed))...)
}

func (p *layerPool) nextKey() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys++
	return p.keys
}

// place renames the directory of an unpacked layer to its final name. If there is a
// directory of that name, it belongs to a layer whose deletion failed, and it is set aside.
// The layer counts as complete only after [layerPool.add].
func (p *layerPool) place(dir, chain string) error {
	p.renames.Lock()
	defer p.renames.Unlock()
	err := os.Rename(dir, p.path(chain))
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		if _, err = p.setAside(chain); err == nil {
			err = os.Rename(dir, p.path(chain))
		}
	}
	return err
}

// add makes a layer with its final name complete; refs is the number of pulls that refer to
// it. There are more references if it replaces a layer that [layerPool.drop] removed.
func (p *layerPool) add(rec layerRecord, refs int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.layers[rec.ChainID] = &layerInfo{
		bytes: rec.Bytes, inodes: rec.Inodes, known: true, refs: refs + p.absent[rec.ChainID],
	}
	delete(p.absent, rec.ChainID)
}

// drop removes a damaged layer, also if there are references to it. A mount of the layer
// keeps working, because overlayfs refers to the directory and not to its name; therefore
// the files of a layer with holds stay until these holds have ended, as a [droppedLayer]. The
// function returned deletes the files of a layer without holds, which may take long.
func (p *layerPool) drop(chain string) (remove func(context.Context) error, err error) {
	p.renames.Lock()
	defer p.renames.Unlock()
	p.mu.Lock()
	info := p.layers[chain]
	delete(p.layers, chain)
	if info != nil {
		p.refer(chain, info.refs) // those who have them will end them
	}
	p.mu.Unlock()
	if info == nil { // removed meanwhile; a directory of its name may be a new layer before [layerPool.add]
		return func(context.Context) error { return nil }, nil
	}
	tmp, err := p.setAside(chain)
	return func(ctx context.Context) error {
		if tmp == "" {
			return nil
		}
		return dirtree.Remove(ctx, tmp)
	}, err
}

// hold is [Store.Hold]. A layer that is not there belongs to the hold all the same.
func (p *layerPool) hold(key string, chains []string) error {
	p.mu.Lock()
	var lacking []string
	for _, c := range chains {
		if !p.refer(c, 1) && !p.isDropped(c) {
			lacking = append(lacking, c)
		}
	}
	old := p.holds[key]
	p.holds[key] = slices.Clone(chains)
	if len(lacking) > 0 { // the former hold goes on
		p.holds[key] = slices.Concat(old, chains)
		old = nil
	}
	free := p.useDropped(key, p.holds[key])
	p.mu.Unlock()
	p.unref(old)
	removeAll(p.bg.ctx, free) //nolint:errcheck // the next sweep deletes what is left
	if len(lacking) > 0 {
		return missing(lacking...)
	}
	return nil
}

// briefly is the prefix of the keys of holds that last for one call.
const briefly = "\x00"

// holdBriefly holds layers until the function returned is called.
func (p *layerPool) holdBriefly(chains []string) (release func(), err error) {
	key := briefly + strconv.FormatUint(p.nextKey(), 10)
	release = func() { p.release(key) }
	if err := p.hold(key, chains); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// release is [Store.Release].
func (p *layerPool) release(key string) {
	p.mu.Lock()
	old := p.holds[key]
	delete(p.holds, key)
	free := p.useDropped(key, nil)
	p.mu.Unlock()
	p.unref(old)
	removeAll(p.bg.ctx, free) //nolint:errcheck // the next sweep deletes what is left
}

// sweep is [Store.Sweep].
func (p *layerPool) sweep(ctx context.Context) error {
	p.mu.Lock()
	p.swept = true
	left := slices.Concat(p.left, p.useDropped("", nil)) // those without users
	p.left = nil
	var unused []string
	for c, info := range p.layers {
		if info.refs <= 0 {
			unused = append(unused, c)
		}
	}
	p.mu.Unlock()
	return errors.Join(removeAll(ctx, left), p.collect(ctx, unused))
}

// removeUnpacked deletes a directory that did not become a layer. When the store is closed
// it stops, and the sweep of the next start deletes the rest.
func (p *layerPool) removeUnpacked(dir string) error {
	return dirtree.Remove(p.bg.ctx, dir)
}

// flush writes all unpacked files to disk, by one syncfs(2) of the filesystem.
func (p *layerPool) flush() error {
	d, err := os.Open(p.dir)
	if err != nil {
		return err
	}
	return errors.Join(os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd()))), d.Close())
}

// syncNames makes the names of layers durable, by an fsync(2) of their directory.
func (p *layerPool) syncNames() error { return syncPath(p.dir) }

func (p *layerPool) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.layers)
}

// usage returns the disk usage of all layers, each counted once, and of the directories
// that contain them.
func (p *layerPool) usage(ctx context.Context) (bytes, inodes uint64, err error) {
	p.mu.Lock()
	var unknown []string
	for c, info := range p.layers {
		if !info.known {
			unknown = append(unknown, c)
		}
		bytes, inodes = bytes+info.bytes, inodes+info.inodes
	}
	p.mu.Unlock()
	for _, c := range unknown {
		if ctx.Err() != nil {
			return bytes, inodes, context.Cause(ctx)
		}
		b, n, err := p.measure(ctx, c)
		if err != nil {
			return bytes, inodes, err
		}
		bytes, inodes = bytes+b, inodes+n
	}
	var st unix.Stat_t
	if err := unix.Stat(p.dir, &st); err != nil {
		return bytes, inodes, &os.PathError{Op: "stat", Path: p.dir, Err: err}
	}
	empty, err := dirtree.Measure(ctx, filepath.Join(p.dir, emptyDir))
	return bytes + uint64(st.Blocks)*512 + empty.Bytes, inodes + 1 + empty.Inodes, err
}

// size returns the disk usage of a complete layer: from a record, or else measured.
func (p *layerPool) size(ctx context.Context, chain string) (bytes, inodes uint64, err error) {
	p.mu.Lock()
	var info layerInfo
	if i := p.layers[chain]; i != nil {
		info = *i
	}
	p.mu.Unlock()
	if info.known {
		return info.bytes, info.inodes, nil
	}
	return p.measure(ctx, chain)
}

// measure measures a layer whose size is in no record.
func (p *layerPool) measure(ctx context.Context, chain string) (bytes, inodes uint64, err error) {
	u, err := dirtree.Measure(ctx, p.path(chain))
	if errors.Is(err, os.ErrNotExist) {
		return 0, 0, nil // deleted meanwhile
	}
	if err != nil {
		return 0, 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if info := p.layers[chain]; info != nil {
		info.bytes, info.inodes, info.known = u.Bytes, u.Inodes, true
	}
	return u.Bytes, u.Inodes, nil
}
