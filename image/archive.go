package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/image/layer"
	"berth/image/registry"
)

// maxDocument bounds what is read into memory of an archive's JSON.
const maxDocument = 8 << 20

// archive is an image archive whose files can be read in any order.
type archive struct {
	open  func(name string) (io.ReadCloser, int64, error)
	close func() error
	// alias names files for the digests a docker archive has no names for.
	alias map[digest.Digest]string
	// made are manifests berth wrote for a docker archive, which has none.
	made map[digest.Digest][]byte
}

// openDirArchive reads an unpacked archive; links do not lead out of it.
func openDirArchive(dir string) (*archive, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	open := func(name string) (io.ReadCloser, int64, error) {
		f, err := root.Open(name)
		if err != nil {
			return nil, 0, err
		}
		st, err := f.Stat()
		if err == nil && !st.Mode().IsRegular() {
			err = fmt.Errorf("%s is not a regular file", name)
		}
		if err != nil {
			return nil, 0, errors.Join(err, f.Close())
		}
		return f, st.Size(), nil
	}
	return &archive{open: open, close: root.Close, alias: map[digest.Digest]string{}, made: map[digest.Digest][]byte{}}, nil
}

// openTarArchive reads a tar file, compressed or not. What can't be read at will
// (a pipe, a compressed file) is first copied to a nameless file under spool.
func openTarArchive(ctx context.Context, r io.Reader, spool string) (*archive, error) {
	file, ok := r.(*os.File)
	if ok {
		if st, err := file.Stat(); err != nil || !st.Mode().IsRegular() || isCompressed(file) {
			ok = false
		}
	}
	done := func() error { return nil }
	if !ok {
		var err error
		if file, err = spoolFile(ctx, r, spool); err != nil {
			return nil, err
		}
		done = file.Close
	}
	files, err := indexTar(file)
	if err != nil {
		return nil, errors.Join(err, done())
	}
	open := func(name string) (io.ReadCloser, int64, error) {
		sec, ok := files[path.Clean(name)]
		if !ok {
			return nil, 0, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		return io.NopCloser(io.NewSectionReader(file, sec.off, sec.size)), sec.size, nil
	}
	return &archive{open: open, close: done, alias: map[digest.Digest]string{}, made: map[digest.Digest][]byte{}}, nil
}

func isCompressed(f *os.File) bool {
	var head [4]byte
	_, err := f.ReadAt(head[:], 0)
	return err == nil && (head[0] == 0x1f && head[1] == 0x8b || head == [4]byte{0x28, 0xb5, 0x2f, 0xfd})
}

func spoolFile(ctx context.Context, r io.Reader, dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, tmpPrefix+"load-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	plain, err := layer.Decompress(ctx, r)
	if err == nil {
		_, err = io.Copy(f, &contextReader{ctx, plain})
		err = errors.Join(err, plain.Close())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

type section struct{ off, size int64 }

// maxArchiveFiles bounds the index of a tar archive in memory.
const maxArchiveFiles = 100_000

// indexTar notes where each file of the archive lies. Links inside it, which old
// docker archives use for layers that occur twice, are followed.
func indexTar(f *os.File) (map[string]section, error) {
	files, links := map[string]section{}, map[string]string{}
	pos := &position{f: f}
	tr := tar.NewReader(pos)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, corrupt("the archive is no tar file: %v", err)
		}
		if len(files)+len(links) > maxArchiveFiles {
			return nil, corrupt("the archive has more than %d files", maxArchiveFiles)
		}
		name := path.Clean(hdr.Name)
		switch hdr.Typeflag {
		case tar.TypeReg:
			files[name] = section{pos.off, hdr.Size}
		case tar.TypeSymlink:
			links[name] = path.Join(path.Dir(name), hdr.Linkname)
		case tar.TypeLink:
			links[name] = path.Clean(hdr.Linkname)
		}
	}
	for name, to := range links {
		for range 8 {
			if sec, ok := files[to]; ok {
				files[name] = sec
				break
			}
			to = links[to]
		}
	}
	return files, nil
}

// position reads a file and can skip, which the tar reader uses.
type position struct {
	f   *os.File
	off int64
}

func (p *position) Read(b []byte) (int, error) {
	n, err := p.f.ReadAt(b, p.off)
	p.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (p *position) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += p.off
	case io.SeekEnd:
		st, err := p.f.Stat()
		if err != nil {
			return 0, err
		}
		off += st.Size()
	}
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	p.off = off
	return off, nil
}

// readFile reads a small file whole.
func (a *archive) readFile(name string) ([]byte, error) {
	r, size, err := a.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close() // only read
	if size > maxDocument {
		return nil, corrupt("%s has %d bytes", name, size)
	}
	return io.ReadAll(r)
}

func (a *archive) readJSON(name string, v any) error {
	raw, err := a.readFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return corrupt("%s: %v", name, err)
	}
	return nil
}

func (a *archive) path(d digest.Digest) string {
	if name, ok := a.alias[d]; ok {
		return name
	}
	return "blobs/" + strings.Replace(d.String(), ":", "/", 1)
}

func (a *archive) manifest(ctx context.Context, d digest.Digest) (registry.Manifest, error) {
	if raw, ok := a.made[d]; ok {
		return registry.Manifest{Digest: d, Raw: raw}, nil
	}
	raw, err := a.document(ctx, ocispec.Descriptor{Digest: d})
	return registry.Manifest{Digest: d, Raw: raw}, err
}

func (a *archive) document(_ context.Context, d ocispec.Descriptor) ([]byte, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, corrupt("digest %q", d.Digest)
	}
	raw, err := a.readFile(a.path(d.Digest))
	if err != nil {
		return nil, a.explain(d.Digest, err)
	}
	if got := d.Digest.Algorithm().FromBytes(raw); got != d.Digest {
		return nil, corrupt("%s has the digest %s", a.path(d.Digest), got)
	}
	return raw, nil
}

func (a *archive) blob(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	r, _, err := a.open(a.path(d.Digest))
	return r, a.explain(d.Digest, err)
}

func (a *archive) explain(d digest.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return corrupt("the archive does not hold %s; was it saved for another platform?", d)
	}
	return err
}
