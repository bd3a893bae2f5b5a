package image

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"berth/oci/atomicfile"
)

// badSuffix is of records that can't be used.
const badSuffix = ".bad"

// layerKeeper keeps the layers that images refer to. A [layerPool] is one.
type layerKeeper interface {
	// ref keeps layers; it fails, and keeps none, when one is not there.
	ref(layers []layerRecord) error
	// unref ends that. It may take long, and is called without a lock.
	unref(chains []string)
}

// catalogue owns ROOT/images: the records of the images, and which image has which name.
// An image in it refers to its layers.
type catalogue struct {
	dir    string
	layers layerKeeper

	now atomic.Pointer[index] // what readers see

	mu  sync.Mutex // held by whoever changes the records and the index
	seq uint64     // of the last record
	// pinned is [Options].PinnedImages, or what replaced it.
	pinned []string
}

// openCatalogue reads all records under dir, which must exist. What can't be read or
// lacks a layer is left out: it is moved aside, so that the image is pulled again.
func openCatalogue(dir string, pinned []string, layers layerKeeper) (*catalogue, error) {
	c := &catalogue{dir: dir, pinned: pinned, layers: layers}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	records := map[string]*record{}
	for _, e := range entries {
		name := e.Name()
		path := filepath.Join(dir, name)
		switch {
		case strings.HasPrefix(name, atomicfile.TempPrefix):
			os.Remove(path) // on a read-only disk it stays
		case strings.HasSuffix(name, ".json"):
			r, err := c.readRecord(path)
			if err == nil {
				err = layers.ref(r.Layers)
			}
			if err != nil { // put out of the way, for check to report
				os.Rename(path, path+badSuffix) //nolint:errcheck // on a read-only disk it stays
				continue
			}
			records[r.ID] = r
			c.seq = max(c.seq, r.Seq)
		}
	}
	c.mendTags(records)
	c.now.Store(newIndex(nil, records, pinned))
	return c, nil
}

// view gives what is in the catalogue now; it does not change afterwards.
func (c *catalogue) view() *index { return c.now.Load() }

func (c *catalogue) path(id string) string {
	return filepath.Join(c.dir, strings.TrimPrefix(id, "sha256:")+".json")
}

func (c *catalogue) readRecord(path string) (*record, error) {
	var r record
	if err := atomicfile.Read(path, &r); err != nil {
		return nil, err
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("its version is %d, this berth knows %d", r.Version, recordVersion)
	}
	if c.path(r.ID) != path {
		return nil, fmt.Errorf("it is of the image %q", r.ID)
	}
	if err := r.parse(); err != nil {
		return nil, err
	}
	r.Tags, r.Digests = canonical(r.Tags), canonical(r.Digests)
	return r.slim(), nil
}

// withDocuments gives a record of the catalogue with its documents, from its file.
func (c *catalogue) withDocuments(r *record) (*record, error) {
	if r.Manifest != nil {
		return r, nil
	}
	var stored record
	if err := atomicfile.Read(c.path(r.ID), &stored); err != nil {
		return nil, err
	}
	full := *r
	full.Manifest, full.Config = stored.Manifest, stored.Config
	return &full, nil
}

// record gives the record of an image with its documents.
func (c *catalogue) record(id string) (*record, error) {
	r := c.view().records[id]
	if r == nil {
		return nil, fmt.Errorf("%w: no image has the ID %s", ErrNotFound, id)
	}
	return c.withDocuments(r)
}

func (c *catalogue) writeRecord(r *record) error {
	full, err := c.withDocuments(r)
	if err != nil {
		return classify(err)
	}
	return classify(atomicfile.Write(c.path(r.ID), full))
}

// eraseRecord makes the image vanish for good.
func (c *catalogue) eraseRecord(id string) error {
	if err := os.Remove(c.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return classify(err)
	}
	return classify(syncPath(c.dir))
}

// mendTags leaves each tag with the image that got it last: a crash between two
// writes may have left it with two. That is written down, or the tag would be back
// with the older one as soon as the newer is removed.
func (c *catalogue) mendTags(records map[string]*record) {
	owner, mended := map[string]*record{}, map[string]bool{}
	bySeq := slices.SortedFunc(maps.Values(records), func(a, b *record) int { return cmp.Compare(a.Seq, b.Seq) })
	for _, r := range bySeq {
		for _, t := range r.Tags {
			if prev := owner[t]; prev != nil {
				records[prev.ID] = records[prev.ID].without(t)
				mended[prev.ID] = true
			}
			owner[t] = r
		}
	}
	for id := range mended {
		c.writeRecord(records[id]) //nolint:errcheck // on a read-only disk the next start does it
	}
}

// put enters an image, durably. Its layers must be complete; the image refers to them
// from now on. An image that is there already, by another manifest of it or a pull that
// was faster, only gets the names.
func (c *catalogue) put(r *record, tag, digestName string) (*Image, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.view().records[r.ID]; old != nil {
		return c.store(old.with(tag, digestName), tag)
	}
	if err := c.layers.ref(r.Layers); err != nil {
		return nil, err
	}
	img, err := c.store(r, tag)
	if img == nil {
		// The caller's own references keep the layers, so that nothing is deleted here.
		c.layers.unref(r.chains())
	}
	return img, err
}

// addNames gives an image more names, taking the tag from whichever had it. The
// image is nil when it was removed meanwhile.
func (c *catalogue) addNames(id, tag, digestName string) (*Image, error) {
	if img := c.view().byID[id]; img != nil && img.hasNames(tag, digestName) {
		return img, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.view().records[id]
	if r == nil {
		return nil, nil
	}
	return c.store(r.with(tag, digestName), tag)
}

// store writes the record, durably, then takes its new tag from the image that had it,
// and shows both. The image is nil when the record could not be written. It is called
// with mu locked.
func (c *catalogue) store(r *record, tag string) (*Image, error) {
	c.seq++
	r.Seq = c.seq
	records := maps.Clone(c.view().records)
	if err := c.writeRecord(r); err != nil {
		return nil, err
	}
	records[r.ID] = r.slim()
	var err error
	for id, o := range records {
		if id != r.ID && tag != "" && slices.Contains(o.Tags, tag) {
			records[id] = o.without(tag)
			err = c.writeRecord(records[id]) // failing to is mended by mendTags
		}
	}
	return c.show(records).byID[r.ID], err
}

// show makes the records what readers see. It is called with mu locked.
func (c *catalogue) show(records map[string]*record) *index {
	ix := newIndex(c.view(), records, c.pinned)
	c.now.Store(ix)
	return ix
}

// pin replaces the patterns of pinned images.
func (c *catalogue) pin(patterns []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pinned = patterns
	c.now.Store(c.view().repinned(patterns))
}

// remove takes an image out, durably; none of that ID is no error.
func (c *catalogue) remove(id string) error {
	c.mu.Lock()
	r, err := c.erase(id)
	c.mu.Unlock()
	if r != nil {
		c.layers.unref(r.chains())
	}
	return err
}

// erase gives the record that was there. It is called with mu locked.
func (c *catalogue) erase(id string) (*record, error) {
	r := c.view().records[id]
	if r == nil {
		return nil, nil
	}
	if err := c.eraseRecord(id); err != nil {
		return nil, err
	}
	records := maps.Clone(c.view().records)
	delete(records, id)
	c.show(records)
	return r, nil
}

// removeAllWith takes out every image that has the layer and calls drop, which has the
// layer vanish, before another image with it can be entered.
func (c *catalogue) removeAllWith(chain string, drop func() error) error {
	var freed []string
	c.mu.Lock()
	var err error
	for id, r := range c.view().records {
		if err == nil && slices.Contains(r.chains(), chain) {
			if _, err = c.erase(id); err == nil {
				freed = append(freed, r.chains()...)
			}
		}
	}
	if err == nil {
		err = drop()
	}
	c.mu.Unlock()
	c.layers.unref(freed)
	return err
}

// unreadable lists the IDs of the images that [openCatalogue] had to leave out, with
// the paths of their records.
func (c *catalogue) unreadable() (map[string]string, error) {
	entries, err := os.ReadDir(c.dir)
	out := map[string]string{}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"+badSuffix); ok {
			out[digest.NewDigestFromEncoded(digest.SHA256, name).String()] = filepath.Join(c.dir, e.Name())
		}
	}
	return out, err
}

func syncPath(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
