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

func TestPoolDropWhileHeld(t *testing.T) {
	p := newPool(t, "held", "free")
	if err := p.hold("container", []string{chainOf("held")}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"held": true, "free": false} {
		remove, err := p.drop(chainOf(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(p.dir, tmpPrefix+"*", "file"))
		if err != nil || (len(files) == 1) != want {
			t.Errorf("%s: the files %q are left, want some: %v", name, files, want)
		}
		for _, f := range files {
			if err := os.RemoveAll(filepath.Dir(f)); err != nil {
				t.Fatal(err)
			}
		}
	}
	// It is made again; the hold is counted for it.
	if err := os.Mkdir(filepath.Join(p.dir, tmpPrefix+"new"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := p.place(filepath.Join(p.dir, tmpPrefix+"new"), chainOf("held")); err != nil {
		t.Fatal(err)
	}
	p.add(layersNamed("held")[0], 0)
	if err := p.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	poolHas(t, p, "held")
	p.release("container")
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
