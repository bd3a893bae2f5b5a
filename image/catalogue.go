package image

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"berth/oci/atomicfile"
)

// badSuffix is appended to the file names of records that can't be used.
const badSuffix = ".bad"

// layerKeeper keeps the layers that images refer to. A [layerPool] is one.
type layerKeeper interface {
	// ref adds a reference to each layer, so that none of them is deleted. If one of them
	// does not exist it fails with [ErrNotFound] and adds no reference.
	ref(layers []layerRecord) error
	// unref removes a reference from each layer (ChainIDs), and deletes those without
	// references. That can take long, so it is called while no lock is held.
	unref(chains []string)
}

// catalogue owns ROOT/images: the records of the images, with the names of each. Every
// image in it holds a reference to each of its layers.
type catalogue struct {
	dir    string
	layers layerKeeper

	now atomic.Pointer[index] // what readers see

	mu  sync.Mutex // held by whoever changes the records and the index
	seq uint64     // of the last record
	// pinned is [Options].PinnedImages, or what replaced it.
	pinned []string
}

// openCatalogue reads all records in dir, which must exist. A record that can't be used, or
// whose layers are not all there, is renamed with [badSuffix] and left out, so that the image
// is pulled again. If it can't be told what a record says, openCatalogue fails and changes
// nothing: the layers of an image that is left out are deleted.
func openCatalogue(dir string, pinned []string, layers layerKeeper) (*catalogue, error) {
	c := &catalogue{dir: dir, pinned: pinned, layers: layers}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	records, bad, err := c.load(entries)
	if err != nil {
		return nil, fmt.Errorf("what images there are can't be told, so nothing was changed; "+
			"it is tried again at the next start: %w", err)
	}
	for _, path := range bad { // so that Check reports it
		os.Rename(path, path+badSuffix) //nolint:errcheck // on a read-only disk it stays
	}
	c.mendTags(records)
	c.now.Store(newIndex(nil, records, pinned))
	return c, nil
}

// load reads the records, adds references to their layers, and returns the paths of those
// that are of no use. It fails if one could not be read, which tells nothing of the image.
func (c *catalogue) load(entries []os.DirEntry) (records map[string]*record, bad []string, err error) {
	records = map[string]*record{}
	var unread []error
	for _, e := range entries {
		name := e.Name()
		path := filepath.Join(c.dir, name)
		switch {
		case strings.HasPrefix(name, atomicfile.TempPrefix):
			os.Remove(path) // on a read-only disk it stays
		case strings.HasSuffix(name, ".json"):
			r, err := c.readRecord(path)
			if err == nil {
				err = c.layers.ref(r.Layers)
			}
			switch {
			case err == nil:
				records[r.ID] = r
				c.seq = max(c.seq, r.Seq)
			case isOfNoUse(err):
				bad = append(bad, path)
			default:
				unread = append(unread, err)
			}
		}
	}
	return records, bad, errors.Join(unread...)
}

// isOfNoUse tells whether the error of a record says for sure that there is none which could
// be used: its content is no record or one of another version, a layer is missing, or
// something else is in its place. Another error, of a host that lacks descriptors or memory or
// of a faulty disk, tells nothing of the record.
func isOfNoUse(err error) bool {
	for _, sure := range []error{ErrCorrupt, ErrNotFound, atomicfile.ErrUnreadable, fs.ErrNotExist, unix.EISDIR} {
		if errors.Is(err, sure) {
			return true
		}
	}
	return false
}

// view returns the present content of the catalogue as an immutable index.
func (c *catalogue) view() *index { return c.now.Load() }

func (c *catalogue) path(id string) string {
	return filepath.Join(c.dir, strings.TrimPrefix(id, "sha256:")+".json")
}

// readRecord reads the record of an image. The error is [ErrCorrupt] if it was read and makes
// no sense.
func (c *catalogue) readRecord(path string) (*record, error) {
	var r record
	if err := atomicfile.Read(path, &r); err != nil {
		return nil, err
	}
	if r.Version != recordVersion {
		return nil, corrupt("its version is %d, this berth knows %d", r.Version, recordVersion)
	}
	if c.path(r.ID) != path {
		return nil, corrupt("it is of the image %q", r.ID)
	}
	if err := r.parse(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	r.Tags, r.Digests = canonical(r.Tags), canonical(r.Digests)
	return r.slim(), nil
}

// withDocuments reads the file of a record and returns the record with manifest and
// configuration, which are not kept in memory.
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

// record returns the record of the image with this ID, with manifest and configuration.
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

// eraseRecord removes the file of a record, durably.
func (c *catalogue) eraseRecord(id string) error {
	if err := os.Remove(c.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return classify(err)
	}
	return classify(syncPath(c.dir))
}

// mendTags removes each tag that two records have from the older record, as a crash
// between the writes of two records can leave it in both. The older record is written
// again: otherwise the older image would get the tag back when the newer one is removed.
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

// put adds an image to the catalogue, durably, and a reference to each of its layers,
// which must be complete. If the catalogue has the image already (another manifest has the
// same configuration, or another pull was faster), only the names are added to it.
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
		// The caller has references of its own, so this call deletes no layer.
		c.layers.unref(r.chains())
	}
	return img, err
}

// addNames adds names to an image, and removes the tag from the image that had it. The
// result is nil when the image was removed meanwhile.
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

// store writes the record, durably, removes its new tag from the image that had it, and
// publishes both changes to readers. The result is nil when the record could not be
// written. It is called with mu locked.
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
			err = c.writeRecord(records[id]) // if this fails, mendTags repairs it at the next start
		}
	}
	return c.show(records).byID[r.ID], err
}

// show publishes the records to readers. It is called with mu locked.
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

// remove removes the image with this ID, durably. It is no error if there is none.
func (c *catalogue) remove(id string) error {
	c.mu.Lock()
	r, err := c.erase(id)
	c.mu.Unlock()
	if r != nil {
		c.layers.unref(r.chains())
	}
	return err
}

// erase removes the image with this ID and returns its record, nil if there was none. It
// is called with mu locked.
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

// removeAllWith removes every image that has the layer, and then calls drop, which removes
// the layer. No image with the layer can be added in between.
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

// unreadable returns the images that [openCatalogue] left out: the path of each record, by
// image ID.
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
