package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/image/layer"
	"berth/image/registry"
)

// LoadOptions say how an archive is loaded.
type LoadOptions struct {
	// Name is the name for the image if the archive has no full name for it. It is an
	// error if the archive has several such images.
	Name string
	// Progress, if not nil, is called for each step, by one goroutine at a time.
	Progress func(Progress)
}

// loader brings the images of archives into the store.
type loader struct {
	*importer
	examiner
	bg         *background
	maxArchive int64 // bytes, uncompressed
}

// loadTar is [Store.Load].
func (l *loader) loadTar(ctx context.Context, r io.Reader, opts LoadOptions) ([]*Image, error) {
	a, err := openTarArchive(ctx, r, l.cat.dir, l.maxArchive)
	if err != nil {
		return nil, fmt.Errorf("load: %w", classify(err))
	}
	return l.load(ctx, a, opts)
}

// loadDir is [Store.LoadDir].
func (l *loader) loadDir(ctx context.Context, dir string, opts LoadOptions) ([]*Image, error) {
	a, err := openDirArchive(dir)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	return l.load(ctx, a, opts)
}

// Limits of one archive, in addition to those of its index and its documents.
const (
	maxImages = 1000
	maxNames  = 100 // of one image
)

// candidate is one image of an archive. Its manifest is read only when the image is loaded,
// because the manifests of all images together could have gigabytes.
type candidate struct {
	root   ocispec.Descriptor // of an OCI archive
	docker *dockerImage       // set for a docker archive, which has no manifests
	names  []string           // full references
}

func (l *loader) load(ctx context.Context, a *archive, opts LoadOptions) (imgs []*Image, err error) {
	l.bg.running.Add(1) // the store stays open until it has ended
	defer l.bg.running.Done()
	defer func() { err = errors.Join(err, a.close()) }()
	found, err := a.candidates(ctx, l.platform)
	if err == nil {
		err = nameAll(found, opts.Name)
	}
	for _, c := range found {
		if err == nil && len(c.names) > maxNames {
			err = corrupt("the archive has %d names for one image; at most %d are accepted", len(c.names), maxNames)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("load: %w", classify(err))
	}
	for _, c := range found {
		img, err := l.loadOne(ctx, a, c, opts.Progress)
		if err != nil {
			return imgs, fmt.Errorf("load %s: %w", strings.Join(c.names, " "), classify(err))
		}
		imgs = append(imgs, img)
	}
	return imgs, nil
}

func nameAll(found []candidate, name string) error {
	if len(found) == 0 {
		return corrupt("the archive holds no image")
	}
	for i := range found {
		if len(found[i].names) > 0 || name == "" {
			continue
		}
		if len(found) > 1 {
			return fmt.Errorf("%w: the archive holds several images; %q can't be the name of each", ErrInvalidReference, name)
		}
		found[i].names = []string{name}
	}
	return nil
}

// loadOne loads one image, unless the store has it already, and adds its names.
func (l *loader) loadOne(ctx context.Context, a *archive, c candidate, progress func(Progress)) (*Image, error) {
	root, err := a.root(ctx, c, l.maxLayers)
	if err != nil {
		return nil, err
	}
	f, err := l.examine(ctx, a, root)
	if err != nil {
		return nil, err
	}
	names, err := a.namePairs(c.names, f.root)
	if err != nil {
		return nil, err
	}
	var to listeners
	to.add(progress)
	job := &ingest{importer: l.importer, src: a, found: f, name: f.id(), tag: names[0].tag, digestName: names[0].digest, tell: to.tell}
	if len(c.names) > 0 {
		job.name = c.names[0]
	}
	var img *Image
	if l.cat.view().byID[f.id()] != nil {
		img, err = l.cat.addNames(f.id(), job.tag, job.digestName)
	}
	if img == nil && err == nil {
		img, err = job.run(ctx)
	}
	for _, n := range names[1:] {
		if err == nil {
			img, err = l.cat.addNames(f.id(), n.tag, n.digest)
		}
	}
	if img == nil && err == nil {
		err = fmt.Errorf("%w: it was removed while it was loaded", ErrNotFound)
	}
	return img, err
}

// namePair is the tag and the digest name that one name of the archive adds to an image;
// either may be empty.
type namePair struct{ tag, digest string }

// namePairs returns a pair for each name, and one empty pair for an image without a name.
// No registry knows a manifest that berth made, so its digest is not used in a name.
func (a *archive) namePairs(names []string, root digest.Digest) ([]namePair, error) {
	var out []namePair
	made := a.made.Digest == root
	for _, n := range names {
		ref, err := registry.Parse(n)
		if err != nil {
			return nil, err
		}
		p := namePair{tag: pullTag(ref)}
		if !made {
			p.digest = ref.DigestName(root)
		}
		out = append(out, p)
	}
	if len(out) == 0 {
		out = []namePair{{}}
	}
	return out, nil
}

// candidates returns the archive's images: those of the OCI index if there is one, with
// the names in docker's manifest.json added, otherwise those of manifest.json.
func (a *archive) candidates(ctx context.Context, p platform) ([]candidate, error) {
	docker, err := a.dockerImages()
	if err != nil {
		return nil, err
	}
	names := dockerNames(docker)
	var idx ocispec.Index
	err = a.readJSON("index.json", &idx)
	if errors.Is(err, fs.ErrNotExist) {
		if len(docker) == 0 {
			return nil, corrupt("it holds neither index.json (OCI) nor manifest.json (docker)")
		}
		return dockerCandidates(docker), nil
	}
	if err != nil {
		return nil, err
	}
	var out []candidate
	if len(idx.Manifests) > maxImages {
		return nil, corrupt("the archive has %d images; at most %d are accepted; split it", len(idx.Manifests), maxImages)
	}
	for _, d := range idx.Manifests {
		if d.Annotations["vnd.docker.reference.type"] != "" || !p.accepts(d.Platform) {
			continue
		}
		found, err := a.names(ctx, d, names)
		if err != nil {
			return nil, err
		}
		out = append(out, candidate{root: d, names: found})
	}
	nameOnly(out, docker)
	return out, nil
}

// nameOnly gives the only image of an archive the names in docker's manifest.json, if the
// OCI index has no name for it.
func nameOnly(images []candidate, docker []dockerImage) {
	if len(images) == 1 && len(docker) == 1 && len(images[0].names) == 0 {
		images[0].names = withNames(nil, docker[0].RepoTags)
	}
}

func (p platform) accepts(q *ocispec.Platform) bool {
	return q == nil || q.OS == "" || q.OS == p.os && q.Architecture == p.arch
}

// root returns the manifest or index of a candidate.
func (a *archive) root(ctx context.Context, c candidate, maxLayers int) (registry.Manifest, error) {
	if c.docker == nil {
		m, err := a.Manifest(ctx, c.root.Digest)
		m.MediaType = c.root.MediaType
		return m, err
	}
	if len(c.docker.Layers) > maxLayers {
		return registry.Manifest{}, corrupt("%d layers; overlayfs can stack %d", len(c.docker.Layers), maxLayers)
	}
	raw, err := a.dockerManifest(ctx, *c.docker)
	if err != nil {
		return registry.Manifest{}, err
	}
	a.made = registry.Manifest{Digest: digest.FromBytes(raw), MediaType: ocispec.MediaTypeImageManifest, Raw: raw}
	return a.made, nil
}

// dockerNames returns the names of the images in docker's manifest.json, by the base name
// of the image's configuration file without ".json".
func dockerNames(docker []dockerImage) map[string][]string {
	names := map[string][]string{}
	for _, i := range docker {
		config := strings.TrimSuffix(path.Base(i.Config), ".json")
		names[config] = append(names[config], i.RepoTags...)
	}
	return names
}

// names returns the full names of an image of the index.
func (a *archive) names(ctx context.Context, d ocispec.Descriptor, docker map[string][]string) ([]string, error) {
	m, err := a.Manifest(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	var e either
	var names []string
	if registry.Decode(m.Raw, &e) == nil {
		for _, config := range a.configs(ctx, e, maxUnsaid) {
			names = withNames(names, docker[config.Encoded()])
		}
	}
	for _, key := range []string{"io.containerd.image.name", ocispec.AnnotationRefName} {
		n := d.Annotations[key]
		if strings.ContainsAny(n, "/:") { // otherwise it is a tag without a name
			names = withNames(names, []string{n})
		}
	}
	return names, nil
}

// configs returns the digest of a manifest's configuration, or for an index the digests of
// the configurations of up to limit manifests that are in the archive.
func (a *archive) configs(ctx context.Context, e either, limit int) []digest.Digest {
	if e.Config != nil {
		if e.Config.Digest.Validate() != nil {
			return nil
		}
		return []digest.Digest{e.Config.Digest}
	}
	var out []digest.Digest
	for _, d := range e.Manifests[:min(len(e.Manifests), limit)] {
		m, err := a.Manifest(ctx, d.Digest)
		var of either
		if err == nil && registry.Decode(m.Raw, &of) == nil && of.Config != nil && of.Config.Digest.Validate() == nil {
			out = append(out, of.Config.Digest)
		}
	}
	return out
}

// withNames appends the full form of each element of more that is a valid image name. It
// stops when the list exceeds maxNames, which the caller reports.
func withNames(list, more []string) []string {
	for _, m := range more {
		if ref, err := registry.Parse(m); err == nil && len(list) <= maxNames {
			list = added(list, ref.String())
		}
	}
	return list
}

// dockerImage is an element of docker's manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (a *archive) dockerImages() ([]dockerImage, error) {
	var list []dockerImage
	err := a.readJSON("manifest.json", &list)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if len(list) > maxImages {
		return nil, corrupt("the archive has %d images; at most %d are accepted; split it", len(list), maxImages)
	}
	return list, err
}

func dockerCandidates(list []dockerImage) []candidate {
	var out []candidate
	for i := range list {
		out = append(out, candidate{docker: &list[i], names: withNames(nil, list[i].RepoTags)})
	}
	return out
}

// dockerManifest makes a manifest for an image of a docker archive, which has none.
func (a *archive) dockerManifest(ctx context.Context, i dockerImage) ([]byte, error) {
	config, err := a.readFile(i.Config)
	if err != nil {
		return nil, corrupt("configuration %.200s: %v", i.Config, err)
	}
	cd := digest.FromBytes(config)
	a.alias[cd] = i.Config
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: cd, Size: int64(len(config))},
		Layers: []ocispec.Descriptor{},
	}
	for _, name := range i.Layers {
		d, err := a.describe(ctx, name)
		if err != nil {
			return nil, corrupt("layer %.200s: %v", name, err)
		}
		m.Layers = append(m.Layers, d)
	}
	return json.Marshal(m)
}

// describe returns the descriptor of a layer file. Its digest is computed once, also if
// several images of the archive have the layer.
func (a *archive) describe(ctx context.Context, name string) (ocispec.Descriptor, error) {
	if d, ok := a.known[name]; ok {
		return d, nil
	}
	r, size, err := a.open(name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer r.Close() // only read
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Size: size}
	if hex := strings.TrimPrefix(name, "blobs/sha256/"); len(hex) == 64 && isHex(hex) {
		d.Digest = digest.NewDigestFromEncoded(digest.SHA256, hex)
	} else {
		sum := digest.SHA256.Digester()
		ahead := layer.NewAhead(&contextReader{ctx, r})
		_, err = io.Copy(sum.Hash(), ahead)
		ahead.Close() //nolint:errcheck // always nil
		d.Digest = sum.Digest()
	}
	if err == nil {
		a.alias[d.Digest], a.known[name] = name, d
	}
	return d, err
}
