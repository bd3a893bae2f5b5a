package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// refCounts is a [layerKeeper] that has every layer but those that are gone.
type refCounts struct {
	refs map[string]int
	gone map[string]bool
	fail error // of every ref
}

func (c *refCounts) ref(layers []layerRecord) error {
	if c.fail != nil {
		return c.fail
	}
	for _, l := range layers {
		if c.gone[l.ChainID] {
			return missing(l.ChainID)
		}
	}
	for _, l := range layers {
		c.refs[l.ChainID]++
	}
	return nil
}

func (c *refCounts) unref(chains []string) {
	for _, chain := range chains {
		c.refs[chain]--
	}
}

func newCatalogue(t *testing.T, dir string) (*catalogue, *refCounts) {
	t.Helper()
	layers := &refCounts{refs: map[string]int{}, gone: map[string]bool{}}
	c, err := openCatalogue(dir, []string{"reg.test/pinned:*"}, layers)
	if err != nil {
		t.Fatal(err)
	}
	return c, layers
}

// recordOf makes a record of an image that differs by user.
func recordOf(t *testing.T, user string, layers ...string) *record {
	t.Helper()
	config := fmt.Appendf(nil, `{"config":{"User":%q},"rootfs":{}}`, user)
	manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "annotations": map[string]string{"user": user}})
	if err != nil {
		t.Fatal(err)
	}
	r := &record{
		Version: recordVersion, ID: digest.FromBytes(config).String(), Manifest: manifest, Config: config,
		ManifestDigest: digest.FromBytes(manifest).String(), Layers: layersNamed(layers...), PulledAt: now(),
	}
	if err := r.parse(); err != nil {
		t.Fatal(err)
	}
	return r
}

// put enters a record under a tag.
func put(t *testing.T, c *catalogue, r *record, tag string) *Image {
	t.Helper()
	named := r.with(tag, "")
	img, err := c.put(named, tag, "")
	if err != nil || img == nil {
		t.Fatalf("put gave %v, %v", img, err)
	}
	return img
}

func TestCatalogueKeepsImages(t *testing.T) {
	dir := t.TempDir()
	c, layers := newCatalogue(t, dir)
	r := recordOf(t, "joe", "a", "b")
	put(t, c, r, "reg.test/pinned:1")
	if layers.refs[chainOf("a")] != 1 || layers.refs[chainOf("b")] != 1 {
		t.Errorf("references %v, want one to each layer", layers.refs)
	}
	for _, c := range []*catalogue{c, func() *catalogue { again, _ := newCatalogue(t, dir); return again }()} {
		for _, ref := range []string{"reg.test/pinned:1", r.ID, r.ID[len("sha256:"):][:12]} {
			img, err := c.view().get(ref)
			if err != nil || img.ID != r.ID || img.Config.User != "joe" || !img.Pinned || img.Annotations["user"] != "joe" {
				t.Errorf("get %s gave %+v, %v", ref, img, err)
			}
		}
		if mem := c.view().records[r.ID]; mem.Manifest != nil || mem.Config != nil {
			t.Error("the documents are kept in memory")
		}
		full, err := c.record(r.ID)
		if err != nil || string(full.Config) != string(r.Config) {
			t.Errorf("the configuration is %s, %v", full.Config, err)
		}
	}
	if _, err := c.record("sha256:x"); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such record gave %v, want ErrNotFound", err)
	}
}

func TestCatalogueMovesTags(t *testing.T) {
	dir := t.TempDir()
	c, layers := newCatalogue(t, dir)
	old, young := recordOf(t, "old", "a"), recordOf(t, "young", "a")
	put(t, c, old, "reg.test/x:1")
	put(t, c, young, "reg.test/x:1")
	check := func(c *catalogue, want *record) {
		t.Helper()
		if img, err := c.view().get("reg.test/x:1"); err != nil || img.ID != want.ID {
			t.Errorf("the tag is of %v, %v; want %s", img, err, want.ID)
		}
	}
	check(c, young)
	img, err := c.addNames(old.ID, "reg.test/x:1", "reg.test/x@"+old.ManifestDigest)
	if err != nil || !img.hasNames("reg.test/x:1", "reg.test/x@"+old.ManifestDigest) {
		t.Errorf("addNames gave %+v, %v", img, err)
	}
	check(c, old)
	put(t, c, young, "reg.test/x:1") // it is there: only the tag moves
	check(c, young)
	if n := layers.refs[chainOf("a")]; n != 2 {
		t.Errorf("%d references to the layer, want one per image", n)
	}
	// A crash between the two writes leaves the tag with both.
	if err := c.writeRecord(c.view().records[old.ID].with("reg.test/x:1", "")); err != nil {
		t.Fatal(err)
	}
	c, _ = newCatalogue(t, dir)
	check(c, young)
	if tags := c.view().byID[old.ID].Tags; len(tags) != 0 {
		t.Errorf("the older image has the tags %q, want none", tags)
	}
	if img, err := c.addNames("sha256:x", "reg.test/x:2", ""); img != nil || err != nil {
		t.Errorf("names for an image that is not there gave %v, %v, want neither", img, err)
	}
}

func TestCatalogueRemoves(t *testing.T) {
	dir := t.TempDir()
	c, layers := newCatalogue(t, dir)
	for i, with := range [][]string{{"a", "b"}, {"b"}, {"c"}} {
		put(t, c, recordOf(t, fmt.Sprint(i), with...), fmt.Sprintf("reg.test/x:%d", i))
	}
	before := c.view()
	if err := c.remove(before.byName["reg.test/x:2"].ID); err != nil {
		t.Fatal(err)
	}
	if err := c.remove("sha256:x"); err != nil {
		t.Errorf("removing what is not there gave %v, want no error", err)
	}
	dropped := 0
	if err := c.removeAllWith(chainOf("b"), func() error { dropped++; return nil }); err != nil || dropped != 1 {
		t.Errorf("the layer was dropped %d times, %v; want once", dropped, err)
	}
	for chain, n := range layers.refs {
		if n != 0 {
			t.Errorf("%d references to %s are left", n, chain)
		}
	}
	if len(c.view().sorted) != 0 || len(before.sorted) != 3 {
		t.Errorf("%d images are left, and %d in an earlier view; want none and 3", len(c.view().sorted), len(before.sorted))
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left on disk: %v, %v", entries, err)
	}
	failed := errors.New("no")
	if err := c.removeAllWith(chainOf("b"), func() error { return failed }); !errors.Is(err, failed) {
		t.Errorf("the error of drop came as %v", err)
	}
}

func TestCatalogueWithoutLayer(t *testing.T) {
	dir := t.TempDir()
	c, layers := newCatalogue(t, dir)
	layers.gone[chainOf("a")] = true
	r := recordOf(t, "joe", "a")
	if img, err := c.put(r, "", ""); img != nil || !errors.Is(err, ErrNotFound) {
		t.Errorf("an image without its layer gave %v, %v, want ErrNotFound", img, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left on disk: %v, %v", entries, err)
	}
	layers.gone = map[string]bool{}
	put(t, c, r, "")
	layers.gone[chainOf("a")] = true
	c, err := openCatalogue(dir, nil, layers)
	if err != nil || len(c.view().records) != 0 {
		t.Errorf("opened with %d records, %v; want none", len(c.view().records), err)
	}
	if bad, err := c.unreadable(); err != nil || len(bad) != 1 || bad[r.ID] == "" {
		t.Errorf("the records left out are %v, %v; want that of %s", bad, err, r.ID)
	}
}

// A daemon that lacks descriptors as it starts has not lost its images.
func TestCatalogueIsNotOpenedWithoutDescriptors(t *testing.T) {
	dir := t.TempDir()
	c, layers := newCatalogue(t, dir)
	put(t, c, recordOf(t, "joe", "a"), "")
	layers.fail = unix.EMFILE
	if _, err := openCatalogue(dir, nil, layers); !errors.Is(err, unix.EMFILE) {
		t.Errorf("opened without descriptors: %v, want EMFILE", err)
	}
	layers.fail = nil
	if c, err := openCatalogue(dir, nil, layers); err != nil || len(c.view().records) != 1 {
		t.Errorf("opened later with %d records, %v; want one", len(c.view().records), err)
	}
}

// A record that can't be read for a reason that says nothing of it, here a link to itself for
// a faulty disk, keeps the store from being opened. Nothing is renamed, not even a bad record.
func TestCatalogueLeavesWhatItCantRead(t *testing.T) {
	dir := t.TempDir()
	c, layers := newCatalogue(t, dir)
	r := recordOf(t, "joe", "a")
	put(t, c, r, "")
	path, kept, bad := c.path(r.ID), filepath.Join(t.TempDir(), "kept"), c.path(digest.FromString("bad").String())
	err := errors.Join(os.Rename(path, kept), os.Symlink(path, path), os.WriteFile(bad, []byte("{"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	before := layers.refs[chainOf("a")]
	if c, err := openCatalogue(dir, nil, layers); !errors.Is(err, unix.ELOOP) || !strings.Contains(err.Error(), path) {
		t.Errorf("opened beside an unread record: %v, %v; want an error that names %s", c, err, path)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*"+badSuffix)); err != nil || len(left) != 0 {
		t.Errorf("renamed: %q, %v; want nothing", left, err)
	}
	if err := os.Rename(kept, path); err != nil {
		t.Fatal(err)
	}
	c, err = openCatalogue(dir, nil, layers)
	if refs := layers.refs[chainOf("a")]; err != nil || len(c.view().records) != 1 || refs != before+1 {
		t.Fatalf("opened once it can be read: %d references, %v; want one more than %d", refs, err, before)
	}
	if left, err := c.unreadable(); err != nil || len(left) != 1 || left[digest.FromString("bad").String()] == "" {
		t.Errorf("the records left out are %v, %v; want the bad one", left, err)
	}
}

// Something else in the place of a record is no record.
func TestCatalogueLeavesOutADirectory(t *testing.T) {
	dir := t.TempDir()
	c, _ := newCatalogue(t, dir)
	id := digest.FromString("directory").String()
	if err := os.Mkdir(c.path(id), 0o700); err != nil {
		t.Fatal(err)
	}
	c, _ = newCatalogue(t, dir)
	if left, err := c.unreadable(); err != nil || len(left) != 1 || left[id] == "" {
		t.Errorf("the records left out are %v, %v; want the directory", left, err)
	}
}

func TestCatalogueLeavesOutUnreadable(t *testing.T) {
	for name, spoil := range map[string]func(r *record) (id string){
		"version": func(r *record) string { r.Version = 99; return r.ID },
		"name":    func(*record) string { return digest.FromString("another").String() },
		"config":  func(r *record) string { r.Config = []byte(`{"config":{"User":"eve"}}`); return r.ID },
		"json":    func(r *record) string { r.Manifest = []byte("{"); return r.ID },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c, _ := newCatalogue(t, dir)
			good, bad := recordOf(t, "good"), recordOf(t, "bad")
			put(t, c, good, "reg.test/good:1")
			id := spoil(bad)
			raw, err := json.Marshal(bad)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(c.path(id), raw, 0o600); err != nil {
				t.Fatal(err)
			}
			c, _ = newCatalogue(t, dir)
			if imgs := c.view().sorted; len(imgs) != 1 || imgs[0].ID != good.ID {
				t.Errorf("%d images are listed, want the good one", len(imgs))
			}
			if left, err := c.unreadable(); err != nil || left[id] == "" {
				t.Errorf("the records left out are %v, %v; want %s", left, err, id)
			}
		})
	}
}

func TestCatalogueWriteFails(t *testing.T) {
	dir := t.TempDir()
	c, layers := newCatalogue(t, dir)
	put(t, c, recordOf(t, "first", "a"), "reg.test/x:1")
	c.dir += "/gone"
	if img, err := c.put(recordOf(t, "second", "b"), "reg.test/x:1", ""); img != nil || err == nil {
		t.Errorf("a record that can't be written gave %v, %v", img, err)
	}
	if layers.refs[chainOf("b")] != 0 {
		t.Errorf("references %v, want none to b", layers.refs)
	}
	if img, err := c.view().get("reg.test/x:1"); err != nil || img.Config.User != "first" {
		t.Errorf("the tag is of %+v, %v; want the first image's", img, err)
	}
}

func TestIndexGet(t *testing.T) {
	c, _ := newCatalogue(t, t.TempDir())
	img := put(t, c, recordOf(t, "joe"), "docker.io/library/box:latest")
	for ref, want := range map[string]error{
		"box": nil, "box:latest": nil, "docker.io/library/box": nil, img.ID[:20]: nil,
		"box:other": ErrNotFound, digest.FromString("x").String(): ErrNotFound, "BOX": ErrInvalidReference,
	} {
		got, err := c.view().get(ref)
		if !errors.Is(err, want) || want == nil && (err != nil || got.ID != img.ID) {
			t.Errorf("get %q gave %v, %v; want error %v", ref, got, err, want)
		}
	}
	if l, ok := c.view().layer(chainOf("x")); ok {
		t.Errorf("a layer of no image is %+v", l)
	}
	if got := c.view().sorted; !slices.Contains(got, img) {
		t.Errorf("the list lacks the image: %v", got)
	}
}
