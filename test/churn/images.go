package main

import (
	"fmt"
	"math/rand/v2"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"berth/test/registry"
)

const (
	repository = "docker.io/churn/"
	movingTag  = repository + "moving:latest"
	manyLayers = 24
)

// picture is an image of the registry with what a store must make of it.
type picture struct {
	id     string   // config digest
	chains []string // ChainIDs, lowest first
	extra  uint64   // bytes of manifest and config, which count in the image's size
	names  []string // to pull it by: tags, digests, both
	image  v1.Image
}

// gallery makes images and pushes them.
type gallery struct {
	reg    *registry.Registry
	known  map[string]*picture // all, by ID
	common []*picture          // for all clients
	bottom v1.Layer            // has the program that containers run
	middle []v1.Layer
}

// newGallery makes the images that all clients use.
func newGallery(reg *registry.Registry) (*gallery, error) {
	g := &gallery{reg: reg, known: map[string]*picture{}}
	pause, err := registry.Scratch("pause", 0o755)
	if err != nil {
		return nil, err
	}
	bottom, err := pause.Layers()
	if err != nil {
		return nil, err
	}
	g.bottom = bottom[0]
	for i := range 5 {
		l, err := layerOf(fmt.Sprintf("middle%d", i), 20+10*i)
		if err != nil {
			return nil, err
		}
		g.middle = append(g.middle, l)
	}
	for i := range 12 {
		layers, err := g.stack(i)
		if err != nil {
			return nil, err
		}
		p, err := g.add(fmt.Sprintf("app%d", i), i%4 == 3, layers...)
		if err != nil {
			return nil, err
		}
		g.common = append(g.common, p)
	}
	return g, g.alias(g.common[2])
}

// stack gives the layers of common image i.
func (g *gallery) stack(i int) ([]v1.Layer, error) {
	layers := []v1.Layer{g.bottom, g.middle[i%3]}
	switch i {
	case 9, 10: // nothing but what others have; they differ by their configuration
		return layers, nil
	case 11:
		for k := range manyLayers {
			l, err := layerOf(fmt.Sprintf("thin%d", k), 1)
			if err != nil {
				return nil, err
			}
			layers = append(layers, l)
		}
		return layers, nil
	}
	if i%2 == 1 { // one blob, over different ones
		layers = append(layers, g.middle[3+i%4/2])
	}
	own, err := layerOf(fmt.Sprintf("own%d", i), 40)
	return append(layers, own), err
}

// layerOf makes a layer whose content follows from its name: small files, a large
// one, links, and the removal of what a lower layer has.
func layerOf(name string, files int) (v1.Layer, error) {
	sum := digest.FromString(name)
	r := rand.NewChaCha8([32]byte([]byte(sum.Encoded()[:32])))
	var list []registry.File
	for i := range files {
		data := make([]byte, r.Uint64()%9000)
		_, _ = r.Read(data) // never fails
		list = append(list, registry.File{
			Path: fmt.Sprintf("/%s/d%d/f%d", name, i%7, i), Mode: 0o644, Data: data, UID: i % 3, GID: i % 2,
		})
	}
	large := make([]byte, 3000*files)
	_, _ = r.Read(large)
	return registry.Layer(append(list,
		registry.File{Path: "/" + name + "/large", Mode: 0o600, Data: large},
		registry.File{Path: "/" + name + "/link", Link: "large"},
		registry.File{Path: "/" + name + "/same", Mode: 0o600, Hard: "/" + name + "/large"},
		registry.File{Path: "/shared/" + name, Mode: 0o644, Data: []byte(name)},
		registry.File{Path: "/shared/last", Mode: 0o644, Data: []byte(name)},
		registry.File{Path: "/shared/.wh.middle0", Mode: 0o644},
	)...)
}

// add pushes an image, perhaps behind an index, and notes it.
func (g *gallery) add(name string, indexed bool, layers ...v1.Layer) (*picture, error) {
	img, err := registry.Build(v1.Config{Entrypoint: []string{"/pause"}, Labels: map[string]string{"name": name}}, layers...)
	if err != nil {
		return nil, err
	}
	p, err := examine(img)
	if err != nil {
		return nil, err
	}
	tag := repository + name + ":v1"
	top := []registry.Image{img}
	if indexed {
		index, err := registry.ManyPlatforms(img)
		if err != nil {
			return nil, err
		}
		top = append(top, index)
	}
	p.names = []string{tag}
	for _, t := range top { // the last has the tag
		if err := g.reg.Push(tag, t); err != nil {
			return nil, err
		}
		d, err := t.Digest()
		if err != nil {
			return nil, err
		}
		p.names = append(p.names, repository+name+"@"+d.String(), tag+"@"+d.String())
	}
	g.known[p.id] = p
	return p, nil
}

// alias gives an image one more name.
func (g *gallery) alias(p *picture) error {
	const tag = repository + "alias:v1"
	p.names = append(p.names, tag)
	return g.reg.Push(tag, p.image)
}

func examine(img v1.Image) (*picture, error) {
	conf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		return nil, err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return nil, err
	}
	var diffs []digest.Digest
	for _, d := range conf.RootFS.DiffIDs {
		diffs = append(diffs, digest.Digest(d.String()))
	}
	p := &picture{id: digest.FromBytes(raw).String(), extra: uint64(len(raw) + len(manifest)), image: img}
	for _, c := range identity.ChainIDs(diffs) {
		p.chains = append(p.chains, c.String())
	}
	return p, nil
}

// removable are names that a removal may use.
func (p *picture) removable() []string {
	return append([]string{p.id, strings.TrimPrefix(p.id, "sha256:"), p.id[:len("sha256:")+12]}, p.names...)
}

// wants tells whether the store may list the image under a tag or digest.
func (p *picture) wants(name string) bool {
	for _, n := range p.names {
		if n == name {
			return true
		}
	}
	return false
}
