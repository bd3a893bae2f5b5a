package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/cri/operator"
	"berth/test/node"
)

// verifier compares what berthd says with what is on disk.
type verifier struct {
	node  *node.Node
	known map[string]*picture

	// What undisturbed pulls made.
	trees map[string]tree // layers, by ChainID
	empty space           // of a store without images
}

func (v *verifier) layerDir(chain string) string {
	return filepath.Join(v.node.Root, "layers", strings.TrimPrefix(chain, "sha256:"))
}

// learn pulls every image once, notes what its layers look like, and removes all.
func (v *verifier) learn(ctx context.Context) error {
	v.trees = map[string]tree{}
	for _, p := range v.known {
		spec := &runtimeapi.ImageSpec{Image: p.names[0]}
		if _, err := v.node.Images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec}); err != nil {
			return err
		}
		for _, chain := range p.chains {
			t, err := readTree(v.layerDir(chain))
			if err != nil {
				return err
			}
			v.trees[chain] = t
		}
	}
	if err := v.node.RemoveAll(); err != nil {
		return err
	}
	var err error
	if v.empty, err = v.du(ctx); err != nil {
		return err
	}
	_, err = v.verify(ctx)
	return err
}

// layer tells in what a layer on disk is not what it must be.
func (v *verifier) layer(chain string) error {
	got, err := readTree(v.layerDir(chain))
	if err != nil {
		return fmt.Errorf("layer %s: %w", chain, err)
	}
	if want := v.trees[chain]; got != want {
		return fmt.Errorf("layer %s is %+v, an undisturbed pull made %+v", chain, got, want)
	}
	return nil
}

// verify looks at everything once, and says what there is or all that is wrong.
func (v *verifier) verify(ctx context.Context) (string, error) {
	list, err := v.node.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return "", err
	}
	images := list.GetImages()
	chains := v.chains(images)
	total, derr := v.du(ctx)
	err = errors.Join(derr, v.listed(images), v.directories(images, chains), v.sizes(ctx, images, chains, total), v.check(ctx, images, chains))
	for _, chain := range slices.Sorted(maps.Keys(chains)) {
		err = errors.Join(err, v.layer(chain))
	}
	return fmt.Sprintf("%d images listed and whole, %d layers, %d bytes and %d inodes on disk, none unaccounted for",
		len(images), len(chains), total.bytes, total.inodes), err
}

// chains are the layers of what is listed, each once.
func (v *verifier) chains(images []*runtimeapi.Image) map[string]bool {
	out := map[string]bool{}
	for _, img := range images {
		if p := v.known[img.GetId()]; p != nil {
			for _, chain := range p.chains {
				out[chain] = true
			}
		}
	}
	return out
}

// listed: an image is listed once, under names that are its own.
func (v *verifier) listed(images []*runtimeapi.Image) error {
	var errs []error
	owner := map[string]string{}
	for _, img := range images {
		p := v.known[img.GetId()]
		if p == nil {
			errs = append(errs, fmt.Errorf("image %s is not one of ours", img.GetId()))
			continue
		}
		names := slices.Concat(img.GetRepoTags(), img.GetRepoDigests())
		if len(names) == 0 {
			errs = append(errs, fmt.Errorf("image %s has no name", img.GetId()))
		}
		for _, n := range append(names, img.GetId()) {
			if owner[n] != "" {
				errs = append(errs, fmt.Errorf("%s is the name of %s and %s", n, owner[n], img.GetId()))
			}
			owner[n] = img.GetId()
		}
		for _, n := range names {
			if !moves(n) && !p.wants(n) {
				errs = append(errs, fmt.Errorf("image %s is listed as %s, which it never was", img.GetId(), n))
			}
		}
	}
	return errors.Join(errs...)
}

// moves tells whether the name is of a repository whose images come and go.
func moves(name string) bool {
	name = strings.TrimPrefix(name, repository)
	return strings.HasPrefix(name, "moving") || strings.HasPrefix(name, "alias") || strings.HasPrefix(name, "private")
}

// directories: layers/ and images/ hold what is listed and nothing else.
func (v *verifier) directories(images []*runtimeapi.Image, chains map[string]bool) error {
	want := map[string]bool{"layers/.empty": true, "images/.lock": true}
	for chain := range chains {
		want["layers/"+strings.TrimPrefix(chain, "sha256:")] = true
	}
	for _, img := range images {
		want["images/"+strings.TrimPrefix(img.GetId(), "sha256:")+".json"] = true
	}
	var errs []error
	for _, dir := range []string{"layers", "images"} {
		entries, err := os.ReadDir(filepath.Join(v.node.Root, dir))
		errs = append(errs, err)
		for _, e := range entries {
			name := dir + "/" + e.Name()
			if !want[name] {
				errs = append(errs, fmt.Errorf("%s is on disk and belongs to no listed image", name))
			}
			delete(want, name)
		}
	}
	for name := range want {
		errs = append(errs, fmt.Errorf("%s is missing", name))
	}
	return errors.Join(errs...)
}

// sizes: du, what is listed and ImageFsInfo agree.
func (v *verifier) sizes(ctx context.Context, images []*runtimeapi.Image, chains map[string]bool, total space) error {
	var errs []error
	sum := v.empty
	for chain := range chains {
		sum = sum.plus(v.trees[chain].space)
	}
	for _, img := range images {
		p := v.known[img.GetId()]
		if p == nil {
			continue
		}
		size := p.extra
		for _, chain := range p.chains {
			size += v.trees[chain].bytes
		}
		if img.GetSize() != size {
			errs = append(errs, fmt.Errorf("image %s is listed with %d bytes, its layers, manifest and configuration are %d", p.id, img.GetSize(), size))
		}
		record, err := spaceOf(filepath.Join(v.node.Root, "images", strings.TrimPrefix(p.id, "sha256:")+".json"))
		errs = append(errs, err)
		sum = sum.plus(record)
	}
	if sum != total {
		errs = append(errs, fmt.Errorf("du says %+v, what is listed adds up to %+v", total, sum))
	}
	info, err := v.node.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, f := range info.GetImageFilesystems() {
		if got := (space{f.GetUsedBytes().GetValue(), f.GetInodesUsed().GetValue()}); got != total {
			errs = append(errs, fmt.Errorf("du says %+v, ImageFsInfo %+v", total, got))
		}
	}
	for _, f := range info.GetContainerFilesystems() {
		if got := (space{f.GetUsedBytes().GetValue(), f.GetInodesUsed().GetValue()}); got != (space{}) {
			errs = append(errs, fmt.Errorf("without containers, ImageFsInfo says they take %+v", got))
		}
	}
	return errors.Join(errs...)
}

// check is berth's own: it reads every layer and compares it with its digest.
func (v *verifier) check(ctx context.Context, images []*runtimeapi.Image, chains map[string]bool) error {
	c, err := operator.Dial(v.node.Endpoint)
	if err != nil {
		return err
	}
	defer c.Close()
	raw, err := c.Check(ctx, false)
	if err != nil {
		return fmt.Errorf("berth's check: %w", err)
	}
	var report struct {
		Images, Layers int
		Problems       []json.RawMessage
	}
	if err := json.Unmarshal(raw, &report); err != nil {
		return fmt.Errorf("berth's check: %w in %s", err, raw)
	}
	if len(report.Problems) > 0 || report.Images != len(images) || report.Layers != len(chains) {
		return fmt.Errorf("berth's check of %d images with %d layers says %s", len(images), len(chains), raw)
	}
	return nil
}
