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
	// Name is given to an image for which the archive has no full name. With several
	// such images it is an error.
	Name string
	// Progress, when not nil, is told what happens, by one goroutine at a time.
	Progress func(Progress)
}

// loader brings in the images of archives.
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

// Bounds of what one archive may hold, beside those of its index and its documents.
const (
	maxImages = 1000
	maxNames  = 100 // of one image
)

// candidate is one image of an archive. Its manifest is read when its turn comes: of
// all images they could be gigabytes.
type candidate struct {
	root   ocispec.Descriptor // of an OCI archive
	docker *dockerImage       // of a docker archive, which has no manifests
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

// loadOne brings in one image, or finds that it is here, and gives it its names.
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

// namePair is what one name adds to an image.
type namePair struct{ tag, digest string }

// namePairs gives at least one pair, empty for an image without a name. A manifest
// that berth made up is known to no registry, so it makes no digest name.
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

// candidates lists the archive's images: by the OCI index where there is one, with
// the names docker's manifest.json adds.
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

// nameOnly names the archive's only image, when the index doesn't, as docker's list does.
func nameOnly(images []candidate, docker []dockerImage) {
	if len(images) == 1 && len(docker) == 1 && len(images[0].names) == 0 {
		images[0].names = withNames(nil, docker[0].RepoTags)
	}
}

func (p platform) accepts(q *ocispec.Platform) bool {
	return q == nil || q.OS == "" || q.OS == p.os && q.Architecture == p.arch
}

// root gives the manifest or index a candidate stands for.
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

// dockerNames maps the base names of configuration files, less .json, to the images'
// names.
func dockerNames(docker []dockerImage) map[string][]string {
	names := map[string][]string{}
	for _, i := range docker {
		config := strings.TrimSuffix(path.Base(i.Config), ".json")
		names[config] = append(names[config], i.RepoTags...)
	}
	return names
}

// names finds what an image of the index is called.
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
		if strings.ContainsAny(n, "/:") { // else it is just a tag
			names = withNames(names, []string{n})
		}
	}
	return names, nil
}

// configs gives the digests of the configurations of a manifest or, where they are in
// the archive, of up to limit manifests of an index.
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

// withNames adds the full form of those that are image names, up to one more than an
// image may have.
func withNames(list, more []string) []string {
	for _, m := range more {
		if ref, err := registry.Parse(m); err == nil && len(list) <= maxNames {
			list = added(list, ref.String())
		}
	}
	return list
}

// dockerImage is an element of manifest.json.
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

// dockerManifest makes the manifest a docker archive lacks.
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

// describe computes the digest of a layer file, once however many images name it.
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
