package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"berth/image/layer"
	"berth/image/registry"
	"berth/oci/tracing"
)

// importer brings images into the store: it has their layers made by the staging area and
// adds the images to the catalogue.
type importer struct {
	cat     *catalogue
	staging *staging
	limits  layer.Limits // of one layer
	observe Observer
}

// ingest is the import of one image, whose manifest and configuration were checked.
type ingest struct {
	*importer
	src        source
	found      *found
	name       string // of the image, in progress reports
	tag        string
	digestName string
	tell       func(Progress)

	mu     sync.Mutex // guards the fields below while layers are waited for
	claims []claim    // by layer
	pinned []string   // ChainIDs of complete layers that were acquired
}

// run acquires all layers, in parallel, and commits the image.
func (g *ingest) run(ctx context.Context) (*Image, error) {
	// The references of this import. The image has references of its own by then.
	defer func() { g.staging.pool.unref(g.pinned) }()
	g.claims = make([]claim, len(g.found.layers))
	for i := range g.claims {
		g.note(i, g.staging.acquire(g.request(i)))
	}
	err := g.waitAll(ctx)
	if err == nil {
		g.tell(Progress{Reference: g.name, Stage: StageCommit, Layers: len(g.claims)})
		var img *Image
		step, end := tracing.Begin(ctx, "commit")
		img, err = g.commit(step)
		end(err)
		if err == nil {
			g.tell(Progress{Reference: g.name, Stage: StageDone, Layers: len(g.claims)})
			return img, nil
		}
	}
	for _, c := range g.claims {
		if c.stage != nil && !slices.Contains(g.pinned, c.stage.rec.ChainID) {
			g.staging.leave(c.stage, err)
		}
	}
	return nil, err
}

// request returns the request for layer i: its description and the function that makes it.
func (g *ingest) request(i int) layerRequest {
	return layerRequest{rec: g.found.layers[i], from: g.origin(i), do: g.unpacker(i), tell: func(p Progress) {
		p.Reference, p.Index, p.Layers = g.name, i, len(g.claims)
		g.tell(p)
	}}
}

// note stores the claim to layer i.
func (g *ingest) note(i int, c claim) {
	rec := g.found.layers[i]
	g.mu.Lock()
	g.claims[i] = c
	if c.stage == nil {
		g.pinned = append(g.pinned, rec.ChainID)
	}
	g.mu.Unlock()
	if c.stage == nil {
		g.request(i).tell(Progress{Stage: StageLayer, Layer: rec.Digest, Done: rec.BlobSize, Total: rec.BlobSize})
	}
}

// waitAll waits until all layers are complete, or until the first of them fails.
func (g *ingest) waitAll(ctx context.Context) error {
	eg, ctx := errgroup.WithContext(ctx)
	for i, c := range slices.Clone(g.claims) {
		if c.stage != nil {
			rec := g.found.layers[i] // the stage's own is written to by whoever makes it
			eg.Go(func() error {
				step, end := tracing.Begin(ctx, "layer", "digest", rec.Digest, "bytes", strconv.FormatInt(rec.BlobSize, 10))
				err := g.wait(step, i, c)
				end(err)
				return err
			})
		}
	}
	return eg.Wait()
}

// wait waits until layer i is unpacked. If another pull was making it and failed, this pull
// makes it itself: the reason may concern only the other pull, such as its credentials.
func (g *ingest) wait(ctx context.Context, i int, c claim) error {
	for c.stage != nil {
		err := c.stage.await(ctx, c.attempt)
		if err == nil || !c.joined || ctx.Err() != nil {
			return err
		}
		g.staging.leave(c.stage, err)
		c = g.staging.acquire(g.request(i))
		g.note(i, c)
	}
	return nil
}

// stages returns the stage of each layer, nil for a layer that was complete before.
func (g *ingest) stages() []*stage {
	out := make([]*stage, len(g.claims))
	for i, c := range g.claims {
		out[i] = c.stage
	}
	return out
}

func (g *ingest) unpacker(i int) unpack {
	if g.found.artifact {
		return g.artifactUnpacker()
	}
	rec := g.found.layers[i]
	d := ocispec.Descriptor{MediaType: rec.MediaType, Digest: digest.Digest(rec.Digest), Size: rec.BlobSize, URLs: g.found.urls[rec.Digest]}
	return blobUnpacker(g.src, d, g.limits, g.received)
}

func (g *ingest) artifactUnpacker() unpack {
	return func(ctx context.Context, dir string, st *stage) error {
		check := func(r io.Reader, d ocispec.Descriptor) (io.Reader, error) {
			g.received(d.Size)
			return layer.NewDigester(ctx, newMeter(r, st, d.Size), d.Digest, d.Size, "blob "+d.Digest.String())
		}
		archive := artifactTar(ctx, g.src, g.found.parsed.Layers, check)
		defer archive.Close() // only read
		sum := digest.SHA256.Digester()
		res, err := layer.Apply(ctx, dir, io.TeeReader(archive, sum.Hash()), g.limits)
		st.result, st.rec.TarSize, st.rec.DiffID = res, res.Size, sum.Digest().String()
		return err
	}
}

// received reports bytes of layers that came from a registry; those of an archive do not.
func (g *ingest) received(n int64) {
	if repo, ok := g.src.(*registry.Repository); ok {
		g.observe.received(repo.Registry(), n)
	}
}

// origin returns the source from which layer i would be fetched.
func (g *ingest) origin(i int) origin {
	l := g.found.layers[i]
	repo, ok := g.src.(*registry.Repository)
	if !ok {
		return origin{pull: g, source: fmt.Sprintf("archive %p", g)}
	}
	o := origin{pull: g, registry: repo.Registry(), source: repo.Registry() + " " + l.Digest}
	switch {
	case g.found.artifact: // the blobs may have URLs, which are part of the manifest
		o.source += " " + g.found.manifest.Digest.String()
	case registry.IsForeign(l.MediaType):
		o.source += fmt.Sprintf(" %q", g.found.urls[l.Digest])
	}
	return o
}

// commit makes the staged layers and the image durable and visible. The steps whose
// duration depends on the image are done before a lock is taken.
func (g *ingest) commit(ctx context.Context) (*Image, error) {
	if err := g.inherit(ctx); err != nil {
		return nil, classify(err)
	}
	stages := g.stages()
	if g.staging.unflushed(stages) {
		if err := g.staging.pool.flush(); err != nil {
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
	public, err := g.staging.publish(stages)
	g.pinned = append(g.pinned, public...)
	if err != nil {
		return nil, classify(err)
	}
	return g.cat.put(r, g.tag, g.digestName)
}

// inherit completes the staged layers by the layers below them ([layer.Inherit]), from the
// lowest layer up. It is done once per stage, by the first pull that gets here. Other pulls
// of the layer wait for that, as long as their own contexts allow.
func (g *ingest) inherit(ctx context.Context) error {
	var below layer.Below
	defer below.Close()
	for i, st := range g.stages() {
		var err error
		if st == nil {
			err = below.Push(g.staging.pool.path(g.found.layers[i].ChainID))
		} else if err = st.inherit(ctx, &below); err == nil {
			err = g.pushStage(&below, st)
		}
		if err != nil {
			return fmt.Errorf("layer %s: %w", g.found.layers[i].Digest, err)
		}
	}
	return nil
}

// pushStage adds the directory of a complete stage to below. Another pull may be renaming
// the directory at this moment, so both names are tried.
func (g *ingest) pushStage(below *layer.Below, st *stage) error {
	err := below.Push(st.dir)
	if errors.Is(err, os.ErrNotExist) {
		err = below.Push(g.staging.pool.path(st.rec.ChainID))
	}
	return err
}

// record returns the image's record for the catalogue.
func (g *ingest) record(ctx context.Context) (*record, error) {
	f := g.found
	r := &record{
		Version: recordVersion, ID: f.id(), Artifact: f.artifact,
		MediaType: f.manifest.MediaType, ManifestDigest: f.manifest.Digest.String(),
		Manifest: f.manifest.Raw, Config: f.config, PulledAt: now(), Layers: slices.Clone(f.layers),
		served: f.served, documents: len(f.manifest.Raw) + len(f.config),
	}
	r.Tags, r.Digests = added(nil, g.tag), added(nil, g.digestName)
	for i, st := range g.stages() {
		if st != nil {
			r.Layers[i] = st.rec
			r.Layers[i].Digest, r.Layers[i].MediaType, r.Layers[i].BlobSize = f.layers[i].Digest, f.layers[i].MediaType, f.layers[i].BlobSize
		} else if err := g.describePresent(ctx, &r.Layers[i]); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// describePresent completes the description of a layer that was in the pool before. If
// another image has the layer, digest and size of the uncompressed archive are in its
// record. Otherwise that record was lost in a crash, and the archive is assembled and
// hashed.
func (g *ingest) describePresent(ctx context.Context, l *layerRecord) (err error) {
	pool := g.staging.pool
	if l.Bytes, l.Inodes, err = pool.size(ctx, l.ChainID); err != nil {
		return err
	}
	if other, ok := g.cat.view().layer(l.ChainID); ok {
		l.TarSize, l.DiffID = other.TarSize, other.DiffID
	}
	if l.TarSize > 0 {
		return nil
	}
	sum := digest.SHA256.Digester()
	n := counter(0)
	err = layer.Assemble(pool.path(l.ChainID), &contextWriter{ctx, io.MultiWriter(sum.Hash(), &n)})
	l.TarSize, l.DiffID = int64(n), sum.Digest().String()
	return err
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
