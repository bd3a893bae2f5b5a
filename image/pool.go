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

// layerPool owns ROOT/layers: the complete layers, how often each is referred to, and
// the deletion of those that nobody refers to any more.
type layerPool struct {
	dir string
	bg  *background

	renames sync.Mutex // see the package's rules for locks

	mu     sync.Mutex
	layers map[string]*layerInfo // by ChainID
	holds  map[string][]string   // ChainIDs, by the key of the hold
	swept  bool
	left   []string // .tmp directories of an earlier process
	keys   uint64   // of the last brief hold or layer set aside
}

// layerInfo is a complete layer.
type layerInfo struct {
	bytes, inodes uint64
	known         bool // bytes and inodes are
	refs          int  // by images, holds and pulls
}

// openPool creates the directory if need be, and lists the complete layers in it and
// what an earlier process left behind.
func openPool(dir string, bg *background) (*layerPool, error) {
	p := &layerPool{dir: dir, bg: bg, layers: map[string]*layerInfo{}, holds: map[string][]string{}}
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, emptyDir), 0o700),
		os.MkdirAll(p.emptyLower(0), 0o755), os.MkdirAll(p.emptyLower(1), 0o755)); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case strings.HasPrefix(name, tmpPrefix):
			p.left = append(p.left, name)
		case isHex(name) && len(name) == 64 && e.IsDir():
			p.layers["sha256:"+name] = &layerInfo{}
		}
	}
	return p, nil
}

// path is the directory of a complete layer.
func (p *layerPool) path(chain string) string {
	return filepath.Join(p.dir, strings.TrimPrefix(chain, "sha256:"))
}

// emptyLower is the i-th (0 or 1) directory with nothing in it.
func (p *layerPool) emptyLower(i int) string {
	return filepath.Join(p.dir, emptyDir, strconv.Itoa(i))
}

// chains lists the complete layers.
func (p *layerPool) chains() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]string, 0, len(p.layers))
	for c := range p.layers {
		out = append(out, c)
	}
	return out
}

// ref adds an image's references to its layers, and learns from its record how large
// they are. It fails with ErrNotFound, and adds none, when a layer is not there.
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

func missing(chain string) error {
	return fmt.Errorf("%w: layer %s is not in the store; pull the image again", ErrNotFound, chain)
}

// refPresent adds one reference if the layer is there, and tells whether it is.
func (p *layerPool) refPresent(chain string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	info := p.layers[chain]
	if info != nil {
		info.refs++
	}
	return info != nil
}

// unref gives references up, and deletes what nobody refers to any more.
func (p *layerPool) unref(chains []string) {
	if len(chains) == 0 {
		return
	}
	p.mu.Lock()
	for _, c := range chains {
		if info := p.layers[c]; info != nil {
			info.refs--
		}
	}
	p.mu.Unlock()
	p.collect(p.bg.ctx, chains) //nolint:errcheck // what can't be deleted now is by the next sweep
}

// collect deletes those of the layers that nobody refers to. Each is first renamed,
// so that a crash in the middle, or the end of ctx, leaves nothing that looks complete.
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
		renamed = append(renamed, tmp)
	}
	p.renames.Unlock()
	for _, d := range renamed {
		errs = append(errs, dirtree.Remove(ctx, d))
	}
	return errors.Join(errs...)
}

// setAside gives a layer's directory a name under which it is deleted by the next
// start at the latest. It is called with renames locked.
func (p *layerPool) setAside(chain string) (string, error) {
	to := filepath.Join(p.dir, tmpPrefix+"dead-"+strconv.FormatInt(now().UnixNano(), 36)+"-"+strconv.FormatUint(p.nextKey(), 10))
	return to, os.Rename(p.path(chain), to) // needs no space on a full disk
}

func (p *layerPool) nextKey() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys++
	return p.keys
}

// place gives an unpacked layer its name. A directory that has the name already is one
// that could not be deleted. The layer is not complete before [layerPool.add].
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

// add makes a layer that has its name a complete one, with references of pulls. Holds
// may refer to it too, when it takes the place of one that [layerPool.drop] took away.
func (p *layerPool) add(rec layerRecord, refs int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.layers[rec.ChainID] = &layerInfo{
		bytes: rec.Bytes, inodes: rec.Inodes, known: true, refs: refs + p.countHolds(rec.ChainID),
	}
}

// drop takes a damaged layer away, whoever refers to it. Where it is mounted the mount
// goes on, because overlayfs holds the directory and not its name: the files of a layer
// that is held stay until the next start. The function it gives deletes those of
// another, which may take long.
func (p *layerPool) drop(chain string) (remove func(context.Context) error, err error) {
	p.renames.Lock()
	defer p.renames.Unlock()
	p.mu.Lock()
	known, held := p.layers[chain] != nil, p.countHolds(chain) > 0
	delete(p.layers, chain)
	p.mu.Unlock()
	if !known { // removed meanwhile; what has its name may be a new one that [layerPool.add] waits for
		return func(context.Context) error { return nil }, nil
	}
	tmp, err := p.setAside(chain)
	return func(ctx context.Context) error {
		if held {
			return nil
		}
		return dirtree.Remove(ctx, tmp)
	}, err
}

// hold is [Store.Hold].
func (p *layerPool) hold(key string, chains []string) error {
	p.mu.Lock()
	for _, c := range chains {
		if p.layers[c] == nil {
			p.mu.Unlock()
			return missing(c)
		}
	}
	for _, c := range chains {
		p.layers[c].refs++
	}
	old := p.holds[key]
	p.holds[key] = slices.Clone(chains)
	p.mu.Unlock()
	p.unref(old)
	return nil
}

// briefly starts the keys of holds that last for one call.
const briefly = "\x00"

// holdBriefly holds layers until the function it gives is called.
func (p *layerPool) holdBriefly(chains []string) (release func(), err error) {
	key := briefly + strconv.FormatUint(p.nextKey(), 10)
	return func() { p.release(key) }, p.hold(key, chains)
}

// release is [Store.Release].
func (p *layerPool) release(key string) {
	p.mu.Lock()
	old := p.holds[key]
	delete(p.holds, key)
	p.mu.Unlock()
	p.unref(old)
}

// countHolds is how many holds of containers name the layer. It is called with mu
// locked.
func (p *layerPool) countHolds(chain string) (n int) {
	for key, chains := range p.holds {
		if strings.HasPrefix(key, briefly) {
			continue
		}
		for _, c := range chains {
			if c == chain {
				n++
			}
		}
	}
	return n
}

// sweep is [Store.Sweep].
func (p *layerPool) sweep(ctx context.Context) error {
	p.mu.Lock()
	p.swept = true
	left := p.left
	p.left = nil
	var unused []string
	for c, info := range p.layers {
		if info.refs <= 0 {
			unused = append(unused, c)
		}
	}
	p.mu.Unlock()
	var errs []error
	for _, name := range left {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		errs = append(errs, dirtree.Remove(ctx, filepath.Join(p.dir, name)))
	}
	errs = append(errs, p.collect(ctx, unused))
	return errors.Join(errs...)
}

// removeUnpacked deletes a directory that did not become a layer, in the time the store
// is open; the next start's sweep deletes what is left.
func (p *layerPool) removeUnpacked(dir string) error {
	return dirtree.Remove(p.bg.ctx, dir)
}

// flush writes all that was unpacked to disk, by one syncfs.
func (p *layerPool) flush() error {
	d, err := os.Open(p.dir)
	if err != nil {
		return err
	}
	return errors.Join(os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd()))), d.Close())
}

// syncNames makes the names of layers durable.
func (p *layerPool) syncNames() error { return syncPath(p.dir) }

func (p *layerPool) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.layers)
}

// usage adds up all layers, each once, and the directories around them.
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

// size gives what a complete layer takes of the disk, measured if no record told it.
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

// measure counts a layer of which no record says how large it is.
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
