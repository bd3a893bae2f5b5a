package registry

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// made is the time of everything in the images.
var made = time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)

// File is one entry of a layer. Parent directories need no entry of their own.
type File struct {
	Path string      // absolute
	Mode os.FileMode // permission bits, setuid, setgid, sticky; ModeDir for a directory, ModeNamedPipe for a FIFO
	Data []byte
	From string // instead of Data: a file of this machine
	Link string // instead of Data: a symbolic link's target
	Hard string // instead of Data: the path of the file this is another name of; Mode as that file
	UID  int
	GID  int
}

// Layer makes a layer of files, compressed with gzip.
func Layer(files ...File) (v1.Layer, error) {
	var buf bytes.Buffer
	if err := Tar(&buf, files...); err != nil {
		return nil, err
	}
	data := buf.Bytes()
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}, tarball.WithMediaType(types.OCILayer))
}

// Tar writes files as an archive in the order of their paths, hard links last,
// with the directories above them.
func Tar(w io.Writer, files ...File) error {
	files = withParents(files)
	t := tar.NewWriter(w)
	for _, f := range files {
		if err := f.write(t); err != nil {
			return err
		}
	}
	return t.Close()
}

func withParents(files []File) []File {
	have := map[string]bool{"/": true}
	for _, f := range files {
		have[path.Clean(f.Path)] = true
	}
	all := slices.Clone(files)
	for _, f := range files {
		for d := path.Dir(path.Clean(f.Path)); !have[d]; d = path.Dir(d) {
			have[d] = true
			all = append(all, File{Path: d, Mode: os.ModeDir | 0o755})
		}
	}
	slices.SortStableFunc(all, func(a, b File) int {
		if (a.Hard == "") != (b.Hard == "") {
			return strings.Compare(a.Hard, b.Hard)
		}
		return strings.Compare(path.Clean(a.Path), path.Clean(b.Path))
	})
	return all
}

func (f File) write(t *tar.Writer) error {
	data := f.Data
	if f.From != "" {
		var err error
		if data, err = os.ReadFile(f.From); err != nil {
			return err
		}
	}
	h := &tar.Header{
		Name: strings.TrimPrefix(path.Clean(f.Path), "/"), Mode: tarMode(f.Mode),
		Uid: f.UID, Gid: f.GID, ModTime: made, Format: tar.FormatPAX,
	}
	switch {
	case f.Mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	case f.Mode&os.ModeNamedPipe != 0:
		h.Typeflag = tar.TypeFifo
	case f.Link != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
	case f.Hard != "":
		h.Typeflag, h.Linkname = tar.TypeLink, strings.TrimPrefix(path.Clean(f.Hard), "/")
	default:
		h.Typeflag, h.Size = tar.TypeReg, int64(len(data))
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	_, err := t.Write(data)
	return err
}

func tarMode(m os.FileMode) int64 {
	mode := int64(m.Perm())
	for bit, value := range map[os.FileMode]int64{os.ModeSetuid: 0o4000, os.ModeSetgid: 0o2000, os.ModeSticky: 0o1000} {
		if m&bit != 0 {
			mode |= value
		}
	}
	return mode
}

// Build makes an OCI image of layers, lowest first, for this machine's platform.
func Build(config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(img, layers...)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Created = v1.Time{Time: made}
	file.Config = config
	return mutate.ConfigFile(img, file)
}

// Extend makes an image of base and one more layer; change edits the config.
func Extend(base v1.Image, change func(*v1.Config), files ...File) (v1.Image, error) {
	layers, err := base.Layers()
	if err != nil {
		return nil, err
	}
	if len(files) > 0 {
		l, err := Layer(files...)
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	conf, err := base.ConfigFile()
	if err != nil {
		return nil, err
	}
	config := *conf.Config.DeepCopy()
	if change != nil {
		change(&config)
	}
	return Build(config, layers...)
}

// ManyPlatforms makes an index of img and of an image for a platform that no
// test runs on, the foreign one first.
func ManyPlatforms(img v1.Image) (v1.ImageIndex, error) {
	l, err := Layer(File{Path: "/wrong-platform", Mode: 0o644})
	if err != nil {
		return nil, err
	}
	foreign, err := Build(v1.Config{}, l)
	if err != nil {
		return nil, err
	}
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{Add: foreign, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}},
	), nil
}
