package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"berth/image/layer"
)

// ingest brings one examined image into the store.
type ingest struct {
	store      *Store
	src        source
	found      *found
	name       string // for progress
	tag        string
	digestName string
	tell       func(Progress)

	mu       sync.Mutex // guards what follows while layers are waited for
	stages   []*stage   // by layer; nil where the layer is complete
	attempts []*attempt // by layer: the one at the stage this pull waits for
	pinned   []string   // ChainIDs of complete layers that were acquired
}

// run acquires all layers, side by side, and commits the image.
func (g *ingest) run(ctx context.Context) (*Image, error) {
	defer g.unpin()
	err := g.layers(ctx)
	if err == nil {
		g.tell(Progress{Reference: g.name, Stage: StageCommit, Layers: len(g.found.layers)})
		var img *Image
		if img, err = g.commit(ctx); err == nil {
			g.tell(Progress{Reference: g.name, Stage: StageDone, Layers: len(g.found.layers)})
			return img, nil
		}
	}
	for _, st := range g.stages {
		if st != nil && !g.isPinned(st.rec.ChainID) {
			g.store.leave(st, err)
		}
	}
	return nil, err
}

// unpin gives up the references that kept layers while the image was made; those
// of the image itself stay.
func (g *ingest) unpin() {
	g.store.unref(g.pinned)
}

func (g *ingest) isPinned(chain string) bool { return contains(g.pinned, chain) }

// layers starts all layers, then waits for all.
func (g *ingest) layers(ctx context.Context) error {
	g.stages, g.attempts = make([]*stage, len(g.found.layers)), make([]*attempt, len(g.found.layers))
	joined := make([]bool, len(g.stages))
	for i := range g.found.layers {
		joined[i] = g.start(i)
	}
	eg, ctx := errgroup.WithContext(ctx) // the first that fails ends the wait for all
	for i, st := range g.stages {
		if st != nil {
			eg.Go(func() error { return g.wait(ctx, i, st, joined[i]) })
		}
	}
	return eg.Wait()
}

// start acquires layer i; it tells whether another pull is making it.
func (g *ingest) start(i int) (joined bool) {
	rec := g.found.layers[i]
	tell := func(p Progress) {
		p.Reference, p.Index, p.Layers = g.name, i, len(g.found.layers)
		g.tell(p)
	}
	st, a, joined := g.store.acquire(rec, g.origin(i), tell, g.unpacker(i))
	g.mu.Lock()
	g.stages[i], g.attempts[i] = st, a
	if st == nil {
		g.pinned = append(g.pinned, rec.ChainID)
	}
	g.mu.Unlock()
	if st == nil {
		tell(Progress{Stage: StageLayer, Layer: rec.Digest, Done: rec.BlobSize, Total: rec.BlobSize})
	}
	return joined
}

// wait waits for layer i. When another pull was making it and failed, for reasons
// of its own perhaps (its host, its credentials), this pull makes it itself.
func (g *ingest) wait(ctx context.Context, i int, st *stage, joined bool) error {
	for st != nil {
		g.mu.Lock()
		a := g.attempts[i]
		g.mu.Unlock()
		err := st.await(ctx, a)
		if err == nil || !joined || ctx.Err() != nil {
			return err
		}
		g.store.leave(st, err)
		joined = g.start(i)
		g.mu.Lock()
		st = g.stages[i]
		g.mu.Unlock()
	}
	return nil
}

func (g *ingest) unpacker(i int) unpack {
	if g.found.artifact {
		return g.artifactUnpacker()
	}
	rec := g.found.layers[i]
	d := ocispec.Descriptor{MediaType: rec.MediaType, Digest: digest.Digest(rec.Digest), Size: rec.BlobSize, URLs: g.found.urls[rec.Digest]}
	return blobUnpacker(g.src, d, g.store.opts.Limits)
}

func (g *ingest) artifactUnpacker() unpack {
	return func(ctx context.Context, dir string, st *stage) error {
		check := func(r io.Reader, d ocispec.Descriptor) (io.Reader, error) {
			return layer.NewDigester(ctx, newMeter(r, st, d.Size), d.Digest, d.Size, "blob "+d.Digest.String())
		}
		archive := artifactTar(ctx, g.src, g.found.parsed.Layers, check)
		defer archive.Close() // only read
		sum := digest.SHA256.Digester()
		res, err := layer.Apply(ctx, dir, io.TeeReader(archive, sum.Hash()), g.store.opts.Limits)
		st.result, st.rec.TarSize, st.rec.DiffID = res, res.Size, sum.Digest().String()
		return err
	}
}

// commit makes the staged layers and the image durable and visible. All that takes
// time, and can be made to take more by an image, is done before the lock is taken.
func (g *ingest) commit(ctx context.Context) (*Image, error) {
	if err := g.inherit(ctx); err != nil {
		return nil, classify(err)
	}
	s := g.store
	if g.dirty() {
		if err := s.flush(); err != nil {
			return nil, classify(err)
		}
	}
	r, err := g.record(ctx)
	if err != nil {
		return nil, classify(err)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	s.commit.Lock()
	defer s.commit.Unlock()
	if err := g.rename(); err != nil {
		return nil, classify(err)
	}
	s.mu.Lock()
	old := s.records[g.found.id()]
	s.mu.Unlock()
	if old != nil { // another manifest of the same image, or a pull that was faster
		return s.putRecord(old.with(g.tag, g.digestName), g.tag)
	}
	s.ref(r.chains())
	img, err := s.putRecord(r, g.tag)
	if img == nil {
		s.deref(r.chains())
	}
	return img, err
}

// inherit completes directories that a layer only implies, from the lowest layer up.
// It is done once per stage, whichever pull comes first; others wait for it, each as
// long as its own client does.
func (g *ingest) inherit(ctx context.Context) error {
	var below layer.Below
	defer below.Close()
	for i, st := range g.stages {
		var err error
		if st == nil {
			err = below.Push(g.store.layerPath(g.found.layers[i].ChainID))
		} else if err = st.inherit(ctx, &below); err == nil {
			err = g.pushStage(&below, st)
		}
		if err != nil {
			return fmt.Errorf("layer %s: %w", g.found.layers[i].Digest, err)
		}
	}
	return nil
}

// pushStage puts a complete stage on top of the others. Another pull may be giving it
// its name right now, so it is under one of the two.
func (g *ingest) pushStage(below *layer.Below, st *stage) error {
	err := below.Push(st.dir)
	if errors.Is(err, os.ErrNotExist) {
		err = below.Push(g.store.layerPath(st.rec.ChainID))
	}
	return err
}

// dirty tells whether some layer is not on disk for sure: one that has its name was
// flushed before.
func (g *ingest) dirty() bool {
	g.store.commit.Lock()
	defer g.store.commit.Unlock()
	return slices.ContainsFunc(g.stages, func(st *stage) bool { return st != nil && !st.renamed })
}

// flush writes all that was unpacked to disk: one call orders it before the record.
func (s *Store) flush() error {
	d, err := os.Open(s.layerDir)
	if err != nil {
		return err
	}
	return errors.Join(os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd()))), d.Close())
}

// rename gives the staged layers their names. The caller holds commit.
func (g *ingest) rename() error {
	s, renamed := g.store, false
	for _, st := range g.stages {
		if st == nil {
			continue
		}
		chain := st.rec.ChainID
		if !st.renamed {
			if err := s.rename(st.dir, chain); err != nil {
				return err
			}
			st.renamed, renamed = true, true
		}
		s.mu.Lock()
		if s.stages[chain] == st {
			delete(s.stages, chain)
			st.public = true
			s.layers[chain] = &layerInfo{bytes: st.rec.Bytes, inodes: st.rec.Inodes, known: true, refs: st.refs + s.heldCount(chain)}
		}
		s.mu.Unlock()
		g.pinned = append(g.pinned, chain) // this pull's part of refs
	}
	if !renamed {
		return nil
	}
	return syncPath(s.layerDir)
}

// rename gives a layer its name. A directory that has the name already is one that
// could not be deleted.
func (s *Store) rename(dir, chain string) error {
	err := os.Rename(dir, s.layerPath(chain))
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		if _, err = s.setAside(chain); err == nil {
			err = os.Rename(dir, s.layerPath(chain))
		}
	}
	return err
}

func (g *ingest) record(ctx context.Context) (*record, error) {
	f := g.found
	r := &record{
		Version: recordVersion, ID: f.id(), Artifact: f.artifact,
		MediaType: f.manifest.MediaType, ManifestDigest: f.manifest.Digest.String(),
		Manifest: f.manifest.Raw, Config: f.config, PulledAt: now(), Layers: append([]layerRecord(nil), f.layers...),
		served: f.served, documents: len(f.manifest.Raw) + len(f.config),
	}
	r.Tags, r.Digests = added(nil, g.tag), added(nil, g.digestName)
	for i, st := range g.stages {
		if st != nil {
			r.Layers[i] = st.rec
			r.Layers[i].Digest, r.Layers[i].MediaType, r.Layers[i].BlobSize = f.layers[i].Digest, f.layers[i].MediaType, f.layers[i].BlobSize
		} else if err := g.store.fill(ctx, &r.Layers[i]); err != nil {
			return nil, err
		}
	}
	return r, nil
}
