package image

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// chainOf names a layer for a test.
func chainOf(name string) string { return digest.FromString(name).String() }

// layersNamed describes layers of known size.
func layersNamed(names ...string) (out []layerRecord) {
	for _, n := range names {
		out = append(out, layerRecord{ChainID: chainOf(n), DiffID: chainOf("diff " + n), TarSize: 1024, Bytes: 4096, Inodes: 2})
	}
	return out
}

// newPool opens a pool with complete layers of the names, as a start would find them.
func newPool(t *testing.T, names ...string) *layerPool {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		path := filepath.Join(dir, strings.TrimPrefix(chainOf(n), "sha256:"))
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, "file"), []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bg := newBackground()
	t.Cleanup(bg.stop)
	p, err := openPool(dir, bg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// poolHas compares the pool's layers, in memory and on disk, with names.
func poolHas(t *testing.T, p *layerPool, names ...string) {
	t.Helper()
	var want []string
	for _, n := range names {
		want = append(want, chainOf(n))
		if _, err := os.Stat(p.path(chainOf(n))); err != nil {
			t.Errorf("layer %s is not on disk: %v", n, err)
		}
	}
	slices.Sort(want)
	got := p.chains()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the pool has %d layers, want those of %q", len(got), names)
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil || len(entries) != len(names)+1 { // and .empty
		t.Errorf("%d entries in the pool's directory, want %d and %s: %v", len(entries), len(names), emptyDir, err)
	}
}

func TestPoolDeletesUnreferenced(t *testing.T) {
	p := newPool(t, "a", "b", "c")
	if err := p.ref(layersNamed("a", "b")); err != nil {
		t.Fatal(err)
	}
	p.unref([]string{chainOf("b")})
	poolHas(t, p, "a", "b", "c") // before the sweep holds may not be known
	if err := p.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	poolHas(t, p, "a")
	p.unref([]string{chainOf("a")})
	poolHas(t, p)
}

func TestPoolRefIsAllOrNothing(t *testing.T) {
	p := newPool(t, "a")
	if err := p.ref(layersNamed("a", "missing")); !errors.Is(err, ErrNotFound) {
		t.Errorf("a layer that is not there gave %v, want ErrNotFound", err)
	}
	if err := p.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	poolHas(t, p) // the refused call left no reference to a
}

func TestPoolHolds(t *testing.T) {
	p := newPool(t, "a", "b")
	for _, chains := range [][]string{{chainOf("a")}, {chainOf("a"), chainOf("b")}} {
		if err := p.hold("container", chains); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	poolHas(t, p, "a", "b")
	if err := p.hold("container", []string{chainOf("x")}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a hold of a layer that is not there gave %v, want ErrNotFound", err)
	}
	poolHas(t, p, "a", "b") // what the key held before is still held
	if err := p.hold("container", []string{chainOf("b")}); err != nil {
		t.Fatal(err)
	}
	poolHas(t, p, "b") // holding again replaces
	release, err := p.holdBriefly([]string{chainOf("b")})
	if err != nil {
		t.Fatal(err)
	}
	p.release("container")
	poolHas(t, p, "b")
	release()
	poolHas(t, p)
	p.release("container") // of nothing
}

func TestPoolSweepsWhatWasLeft(t *testing.T) {
	p := newPool(t)
	for _, name := range []string{tmpPrefix + "1", tmpPrefix + "dead-2"} {
		if err := os.MkdirAll(filepath.Join(p.dir, name, "d", "e"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p, err := openPool(p.dir, p.bg)
	if err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(p.dir, tmpPrefix+"of-this-start") // must stay
	if err := os.Mkdir(made, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := p.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(made); err != nil {
		t.Errorf("the sweep took what this process makes: %v", err)
	}
	if err := os.Remove(made); err != nil {
		t.Fatal(err)
	}
	poolHas(t, p)
}

// dropNow drops a layer as a repair does.
func dropNow(t *testing.T, p *layerPool, name string) {
	t.Helper()
	remove, err := p.drop(chainOf(name))
	if err != nil {
		t.Fatal(err)
	}
	if err := remove(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// droppedFiles returns the paths of the files of dropped layers.
func droppedFiles(t *testing.T, p *layerPool) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(p.dir, ".*", "file"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// makeLayer makes a layer as a pull does that has one reference to it until it ends.
func makeLayer(t *testing.T, p *layerPool, name string) {
	t.Helper()
	made := filepath.Join(p.dir, tmpPrefix+"new")
	if err := os.Mkdir(made, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := p.place(made, chainOf(name)); err != nil {
		t.Fatal(err)
	}
	p.add(layersNamed(name)[0], 1)
}

// restarted opens the pool anew, as a restart does, with a hold of the one container.
func restarted(t *testing.T, p *layerPool, chains ...string) *layerPool {
	t.Helper()
	p, err := openPool(p.dir, p.bg)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.hold("container", chains); err != nil {
		t.Fatal(err)
	}
	if err := p.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPoolDropWhileHeld(t *testing.T) {
	p := newPool(t, "held", "free")
	err := errors.Join(p.hold("container", []string{chainOf("held")}), p.ref(layersNamed("free")), p.sweep(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	dropNow(t, p, "free")
	if files := droppedFiles(t, p); len(files) != 0 {
		t.Errorf("the files %q of a layer without holds are left", files)
	}
	dropNow(t, p, "held")
	files := droppedFiles(t, p)
	if len(files) != 1 {
		t.Fatalf("the files %q are left, want those of the held layer", files)
	}
	for range 2 {
		p = restarted(t, p, chainOf("held"))
		if got := droppedFiles(t, p); !slices.Equal(got, files) {
			t.Errorf("a restart under the running container left the files %q, want %q", got, files)
		}
	}
	// A container that is made later is mounted on the new layer.
	makeLayer(t, p, "held")
	if err := p.hold("later", []string{chainOf("held")}); err != nil {
		t.Fatal(err)
	}
	p.unref([]string{chainOf("held")}) // the pull
	p.release("container")
	poolHas(t, p, "held")
	p.release("later")
	poolHas(t, p)
}

// A container that ended while the daemon was down has no hold any more.
func TestPoolSweepsDroppedLayers(t *testing.T) {
	p := newPool(t, "a")
	if err := p.hold("container", []string{chainOf("a")}); err != nil {
		t.Fatal(err)
	}
	dropNow(t, p, "a")
	if err := os.Mkdir(filepath.Join(p.dir, droppedPrefix+"of-nothing"), 0o755); err != nil { // not the store's
		t.Fatal(err)
	}
	p = restarted(t, p)
	if err := os.Remove(filepath.Join(p.dir, droppedPrefix+"of-nothing")); err != nil {
		t.Error(err)
	}
	poolHas(t, p)
}

// Before the sweep it is not known which containers there are, so a dropped layer may be held.
func TestPoolDropBeforeTheSweep(t *testing.T) {
	p := newPool(t, "a", "b")
	dropNow(t, p, "a")
	dropNow(t, p, "b")
	if err := p.hold("container", []string{chainOf("a")}); err != nil {
		t.Errorf("the hold of what runs on a dropped layer: %v", err)
	}
	if err := p.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if files := droppedFiles(t, p); len(files) != 1 {
		t.Errorf("the files %q are left, want those of the held layer", files)
	}
	if err := p.hold("container", nil); err != nil {
		t.Fatal(err)
	}
	poolHas(t, p) // the hold was replaced
}

// A container keeps what there is of a damaged image.
func TestPoolHoldsWhatThereIs(t *testing.T) {
	p := newPool(t, "a", "c")
	err := p.hold("container", []string{chainOf("a"), chainOf("b"), chainOf("c")})
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), chainOf("b")) {
		t.Errorf("a hold without the layer b gave %v, want ErrNotFound with its name", err)
	}
	if err := p.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	poolHas(t, p, "a", "c")
	if release, err := p.holdBriefly([]string{chainOf("a"), chainOf("b")}); err == nil || release != nil {
		t.Errorf("a brief hold without the layer b gave %v, want an error", err)
	}
	makeLayer(t, p, "b")
	p.unref([]string{chainOf("b")})
	poolHas(t, p, "a", "b", "c") // the hold counts for it
	p.release("container")
	poolHas(t, p)
}

// A reference to a dropped layer ends later than that, and must not be taken from the layer
// that was made in its place.
func TestPoolEndsReferencesToADroppedLayer(t *testing.T) {
	p := newPool(t, "a")
	release, err := p.holdBriefly([]string{chainOf("a")})
	if err != nil || !p.refPresent(chainOf("a")) || p.sweep(t.Context()) != nil {
		t.Fatal(err)
	}
	dropNow(t, p, "a")
	makeLayer(t, p, "a")
	release()
	p.unref([]string{chainOf("a")})
	poolHas(t, p, "a") // the pull that made it has its reference
	p.unref([]string{chainOf("a")})
	poolHas(t, p)
}

func TestPoolPlaceOverLeftover(t *testing.T) {
	p := newPool(t)
	for _, dir := range []string{p.path(chainOf("a")), filepath.Join(p.dir, tmpPrefix+"new")} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Base(dir)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.place(filepath.Join(p.dir, tmpPrefix+"new"), chainOf("a")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(p.path(chainOf("a")), tmpPrefix+"new")); err != nil {
		t.Errorf("the name is not the new layer's: %v", err)
	}
}

func TestPoolSizes(t *testing.T) {
	p := newPool(t, "a", "b")
	before, _, err := p.usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bytes, inodes, err := p.size(t.Context(), chainOf("a"))
	if err != nil || bytes == 0 || inodes != 2 {
		t.Errorf("measured %d bytes, %d inodes, %v, want some and 2", bytes, inodes, err)
	}
	known := layersNamed("a")
	known[0].Bytes += bytes
	if err := p.ref(known); err != nil {
		t.Fatal(err)
	}
	after, _, err := p.usage(t.Context())
	if err != nil || after != before+4096 {
		t.Errorf("usage went from %d to %d, want the record's 4096 more: %v", before, after, err)
	}
	if b, n, err := p.size(t.Context(), chainOf("gone")); b != 0 || n != 0 || err != nil {
		t.Errorf("a layer that is gone has %d bytes, %d inodes, %v, want none", b, n, err)
	}
}

// TestPoolConcurrent is for the race detector.
func TestPoolConcurrent(t *testing.T) {
	p := newPool(t, "a", "b")
	if err := p.ref(layersNamed("a")); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 50 {
				if release, err := p.holdBriefly([]string{chainOf("a")}); err == nil {
					release()
				}
				if p.refPresent(chainOf("a")) {
					p.unref([]string{chainOf("a")})
				}
				if err := p.sweep(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	poolHas(t, p, "a")
}
