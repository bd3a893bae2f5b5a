package image

import (
	"archive/tar"
	"context"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// artifactLayers makes one layer of all blobs of an artifact. Each blob becomes a file,
// whose name is the blob's title annotation (as with the ORAS client) or else its digest.
func (f *found) artifactLayers() error {
	var size int64
	for _, d := range f.parsed.Layers {
		if size += d.Size; size < 0 {
			return corrupt("the sizes of its blobs overflow")
		}
	}
	chain := digest.FromString("berth artifact " + f.manifest.Digest.String())
	f.layers = []layerRecord{{ChainID: chain.String(), Digest: f.manifest.Digest.String(), MediaType: f.manifest.MediaType, BlobSize: size}}
	return nil
}

// artifactTar returns a tar stream of the artifact's blobs, each of which is verified while
// it is read. A title may contain ".." or a slash: package layer keeps the name of every
// entry inside the layer.
func artifactTar(ctx context.Context, src source, blobs []ocispec.Descriptor, check func(io.Reader, ocispec.Descriptor) (io.Reader, error)) io.ReadCloser {
	pr, pw := io.Pipe()
	go func() { // ends when the reader closes or ctx does
		w := tar.NewWriter(pw)
		for _, d := range blobs {
			if err := addBlob(ctx, w, src, d, check); err != nil {
				pw.CloseWithError(err) // always nil
				return
			}
		}
		pw.CloseWithError(w.Close()) // always nil
	}()
	return pr
}

func addBlob(ctx context.Context, w *tar.Writer, src source, d ocispec.Descriptor, check func(io.Reader, ocispec.Descriptor) (io.Reader, error)) error {
	name := d.Annotations[ocispec.AnnotationTitle]
	if name == "" || strings.HasSuffix(name, "/") || strings.Contains(name, ".wh.") {
		name = d.Digest.Encoded()
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: d.Size}); err != nil {
		return err
	}
	body, err := src.Blob(ctx, d)
	if err != nil {
		return err
	}
	defer body.Close() // only read
	r, err := check(body, d)
	if err != nil {
		return err
	}
	if _, err = io.Copy(w, r); err != nil {
		return blame(ctx, err, body, r)
	}
	return nil
}
