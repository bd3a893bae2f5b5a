package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"berth/image/layer"
	"berth/image/registry"
)

// archive is an image archive whose files can be read in any order.
type archive struct {
	open  func(name string) (io.ReadCloser, int64, error)
	close func() error
	// alias gives the file of a digest, for docker archives, whose files are not named
	// by their digests.
	alias map[digest.Digest]string
	// known are the files whose digest was computed, by name. The images of one archive
	// can share files.
	known map[string]ocispec.Descriptor
	// made is the manifest that berth made for the image being loaded. Docker archives
	// contain none.
	made registry.Manifest
}

func newArchive(open func(string) (io.ReadCloser, int64, error), done func() error) *archive {
	return &archive{open: open, close: done, alias: map[digest.Digest]string{}, known: map[string]ocispec.Descriptor{}}
}

// openDirArchive opens an unpacked archive. Symbolic links that lead out of dir are
// refused (os.Root).
func openDirArchive(dir string) (*archive, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	open := func(name string) (io.ReadCloser, int64, error) {
		f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not block
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
	return newArchive(open, root.Close), nil
}

// openTarArchive opens a tar file, compressed or not, and makes an index of it. A source
// without random access (a pipe, a compressed file) is meanwhile copied to an unnamed file
// in the directory spool, up to the end of the tar archive. At most limit bytes are read,
// uncompressed.
func openTarArchive(ctx context.Context, r io.Reader, spool string, limit int64) (*archive, error) {
	file, ok := r.(*os.File)
	if ok {
		if st, err := file.Stat(); err != nil || !st.Mode().IsRegular() || isCompressed(file) {
			ok = false
		}
	}
	done := func() error { return nil }
	var files map[string]section
	var err error
	if ok {
		pos := &position{f: file}
		files, err = indexTar(ctx, pos, pos.at)
	} else if file, files, err = spoolTar(ctx, r, spool, limit); err == nil {
		done = file.Close
	}
	if err != nil {
		return nil, err
	}
	open := func(name string) (io.ReadCloser, int64, error) {
		sec, ok := files[path.Clean(name)]
		if !ok {
			return nil, 0, fmt.Errorf("%.200s: %w", name, fs.ErrNotExist)
		}
		return io.NopCloser(io.NewSectionReader(file, sec.off, sec.size)), sec.size, nil
	}
	return newArchive(open, done), nil
}

func isCompressed(f *os.File) bool {
	var head [4]byte
	_, err := f.ReadAt(head[:], 0)
	if err != nil {
		return false
	}
	return head[0] == 0x1f && head[1] == 0x8b || string(head[:3]) == "BZh" ||
		head == [4]byte{0x28, 0xb5, 0x2f, 0xfd} || head == [4]byte{0xfd, '7', 'z', 'X'}
}

func spoolTar(ctx context.Context, r io.Reader, dir string, limit int64) (*os.File, map[string]section, error) {
	f, err := os.CreateTemp(dir, tmpPrefix+"load-")
	if err != nil {
		return nil, nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	plain, err := layer.DecompressArchive(ctx, r)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	s := &spool{r: plain, w: f, limit: limit}
	files, err := indexTar(ctx, s, s.at)
	if err == nil { // verifies the checksum of the compression, and lets the sender finish
		s.w = io.Discard
		_, err = io.Copy(io.Discard, &contextReader{ctx, s})
	}
	if err = errors.Join(err, plain.Close()); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, files, nil
}

// spool is a reader that copies what it reads to a file.
type spool struct {
	r     io.Reader
	w     io.Writer
	n     int64
	limit int64
}

func (s *spool) at() int64 { return s.n }

func (s *spool) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if s.n += int64(n); s.n > s.limit {
		return 0, corrupt("the archive has more than %d bytes uncompressed; split it", s.limit)
	}
	if _, werr := s.w.Write(p[:n]); werr != nil {
		return 0, werr
	}
	return n, err
}

// contextReader is a reader that fails when its context has ended.
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

// Bounds of the index of a tar archive in memory. docker save writes four entries per
// layer; the longest name a tool gives one is that of a blob, some 80 bytes.
const (
	maxArchiveEntries = 100_000
	maxArchiveName    = 1024    // bytes
	maxArchiveNames   = 8 << 20 // bytes, of all together
)

// indexer collects the position of each file of a tar archive.
type indexer struct {
	files   map[string]section
	links   map[string]string
	entries int
	bytes   int // of names
}

// indexTar returns the position of each file in the archive, by its name; at returns how
// many bytes of the archive were read so far. Links are followed inside the archive: old
// versions of docker use them for a layer that occurs twice.
func indexTar(ctx context.Context, r io.Reader, at func() int64) (map[string]section, error) {
	ix := indexer{files: map[string]section{}, links: map[string]string{}}
	tr := tar.NewReader(&contextReader{ctx, r})
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, corrupt("the archive is no tar file: %v", err)
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, fmt.Errorf("read the archive: %w", err)
		}
		if err := ix.add(hdr, at()); err != nil {
			return nil, err
		}
	}
	for name, to := range ix.links {
		for range 8 {
			if sec, ok := ix.files[to]; ok {
				ix.files[name] = sec
				break
			}
			to = ix.links[to]
		}
	}
	return ix.files, nil
}

func (ix *indexer) add(hdr *tar.Header, off int64) error {
	if ix.entries++; ix.entries > maxArchiveEntries {
		return corrupt("the archive has more than %d entries; split it", maxArchiveEntries)
	}
	if len(hdr.Name) > maxArchiveName || len(hdr.Linkname) > maxArchiveName {
		return corrupt("the archive has a name of more than %d bytes", maxArchiveName)
	}
	if ix.bytes += len(hdr.Name) + len(hdr.Linkname); ix.bytes > maxArchiveNames {
		return corrupt("the names in the archive have more than %d bytes; split it", maxArchiveNames)
	}
	name := path.Clean(hdr.Name)
	switch hdr.Typeflag {
	case tar.TypeReg:
		ix.files[name] = section{off, hdr.Size}
	case tar.TypeSymlink:
		ix.links[name] = path.Join(path.Dir(name), hdr.Linkname)
	case tar.TypeLink:
		ix.links[name] = path.Clean(hdr.Linkname)
	}
	return nil
}

// position reads a file. It has a Seek method, with which the tar reader skips content.
type position struct {
	f   *os.File
	off int64
}

func (p *position) at() int64 { return p.off }

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

// readFile reads a file of at most [registry.MaxDocument] bytes.
func (a *archive) readFile(name string) ([]byte, error) {
	r, size, err := a.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close() // only read
	if size > registry.MaxDocument {
		return nil, corrupt("%.200s has %d bytes; at most %d are read", name, size, registry.MaxDocument)
	}
	raw := make([]byte, size)
	_, err = io.ReadFull(r, raw)
	return raw, err
}

func (a *archive) readJSON(name string, v any) error {
	raw, err := a.readFile(name)
	if err != nil {
		return err
	}
	if err := registry.Decode(raw, v); err != nil {
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

// Manifest implements [source].
func (a *archive) Manifest(ctx context.Context, d digest.Digest) (registry.Manifest, error) {
	if d == a.made.Digest {
		return a.made, nil
	}
	raw, err := a.Document(ctx, d)
	return registry.Manifest{Digest: d, Raw: raw}, err
}

// Document implements [source].
func (a *archive) Document(_ context.Context, d digest.Digest) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, corrupt("digest %.100q", d)
	}
	raw, err := a.readFile(a.path(d))
	if err != nil {
		return nil, a.explain(d, err)
	}
	if got := d.Algorithm().FromBytes(raw); got != d {
		return nil, corrupt("%s has the digest %s", a.path(d), got)
	}
	return raw, nil
}

// Blob implements [source].
func (a *archive) Blob(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	r, _, err := a.open(a.path(d.Digest))
	return r, a.explain(d.Digest, err)
}

func (a *archive) explain(d digest.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return corrupt("the archive does not hold %s; was it saved for another platform?", d)
	}
	return err
}
