package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/image/layer"
)

// Export writes images as one tar archive: an OCI image layout, which docker load can read
// too. Layers are uncompressed. They and the configuration are byte for byte those that
// were pulled, so an image keeps its ID; its manifest is a new one. An image that is
// asked for by a tag gets that tag in the archive, any other gets all its tags.
func (s *Store) Export(ctx context.Context, refs []string, w io.Writer) error {
	e := exporter{cat: s.cat, pool: s.pool, ctx: ctx, tw: tar.NewWriter(w), written: map[digest.Digest]bool{}}
	for _, ref := range refs {
		if err := e.image(ref); err != nil {
			return fmt.Errorf("export %s: %w", ref, classify(err))
		}
	}
	if err := e.finish(); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

type exporter struct {
	cat     *catalogue
	pool    *layerPool
	ctx     context.Context
	tw      *tar.Writer
	written map[digest.Digest]bool
	index   ocispec.Index
	docker  []dockerImage
}

func (e *exporter) image(ref string) error {
	img, err := e.cat.view().get(ref)
	if err != nil {
		return err
	}
	if img.Artifact {
		return fmt.Errorf("it is an OCI artifact; only images can be exported")
	}
	release, err := e.pool.holdBriefly(img.Layers)
	if err != nil {
		return err
	}
	defer release()
	r, err := e.cat.record(img.ID)
	if err != nil {
		return err
	}
	names := img.Tags
	if i := slices.IndexFunc(img.Tags, func(t string) bool {
		return t == ref || strings.HasSuffix(t, "/"+ref) || strings.HasSuffix(t, "/"+ref+":latest")
	}); i >= 0 {
		names = img.Tags[i : i+1]
	}
	return e.add(r, names)
}

func (e *exporter) add(r *record, names []string) error {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	var err error
	if m.Config, err = e.document(ocispec.MediaTypeImageConfig, r.Config); err != nil {
		return err
	}
	d := dockerImage{Config: blobPath(m.Config.Digest), RepoTags: names, Layers: []string{}}
	for _, l := range r.Layers {
		desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.Digest(l.DiffID), Size: l.TarSize}
		if err := e.layer(l, desc); err != nil {
			return fmt.Errorf("layer %s: %w", l.DiffID, err)
		}
		m.Layers, d.Layers = append(m.Layers, desc), append(d.Layers, blobPath(desc.Digest))
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	desc, err := e.document(ocispec.MediaTypeImageManifest, raw)
	if err != nil {
		return err
	}
	for _, n := range names {
		desc.Annotations = map[string]string{"io.containerd.image.name": n, ocispec.AnnotationRefName: n[strings.LastIndexByte(n, ':')+1:]}
		e.index.Manifests = append(e.index.Manifests, desc)
	}
	if len(names) == 0 {
		e.index.Manifests = append(e.index.Manifests, desc)
	}
	e.docker = append(e.docker, d)
	return nil
}

func blobPath(d digest.Digest) string { return "blobs/" + strings.Replace(d.String(), ":", "/", 1) }

func (e *exporter) document(mediaType string, raw []byte) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if e.written[d.Digest] {
		return d, nil
	}
	e.written[d.Digest] = true
	return d, e.file(blobPath(d.Digest), raw)
}

func (e *exporter) file(name string, raw []byte) error {
	if err := e.header(name, int64(len(raw))); err != nil {
		return err
	}
	_, err := io.Copy(e.tw, bytes.NewReader(raw))
	return err
}

func (e *exporter) header(name string, size int64) error {
	return e.tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)})
}

// layer writes one layer and verifies it while it is written.
func (e *exporter) layer(l layerRecord, d ocispec.Descriptor) error {
	if e.written[d.Digest] {
		return nil
	}
	e.written[d.Digest] = true
	if err := e.header(blobPath(d.Digest), d.Size); err != nil {
		return err
	}
	sum := digest.SHA256.Digester()
	err := layer.Assemble(e.pool.path(l.ChainID), &contextWriter{e.ctx, io.MultiWriter(sum.Hash(), e.tw)})
	if err != nil {
		return err
	}
	if sum.Digest() != d.Digest {
		return corrupt("it is damaged on disk; berth check --store --repair drops it")
	}
	return nil
}

type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c *contextWriter) Write(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.w.Write(p)
}

func (e *exporter) finish() error {
	e.index.SchemaVersion, e.index.MediaType = 2, ocispec.MediaTypeImageIndex
	for name, v := range map[string]any{
		"index.json": e.index, "manifest.json": e.docker,
		ocispec.ImageLayoutFile: ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion},
	} {
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := e.file(name, raw); err != nil {
			return err
		}
	}
	return e.tw.Close()
}
