package image

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"

	"berth/image/layer"
	"berth/oci/dirtree"
	"berth/oci/failure"
)

// Report is what [Store.Check] found.
type Report struct {
	Images   int // number of images that were checked
	Layers   int
	Problems []Problem
}

// Problem is one fault of an image or a layer.
type Problem struct {
	Image    string // ID of the image concerned, or ""
	Layer    string // ChainID of the layer concerned, or ""
	What     string
	Repaired bool // the image or layer was removed; it is pulled again when it is needed
}

// Check reads all images and layers of the store and compares them with the digests by
// which they were pulled. If repair is set, faulty images and layers are removed. Pulls and
// removals can run at the same time.
func (s *Store) Check(ctx context.Context, repair bool) (Report, error) {
	c := checker{cat: s.cat, pool: s.pool, repair: repair}
	err := c.run(ctx)
	return c.report, err
}

// checker is one run of [Store.Check].
type checker struct {
	cat    *catalogue
	pool   *layerPool
	repair bool
	report Report
}

func (c *checker) run(ctx context.Context) error {
	c.records()
	byLayer := map[string][]string{}
	layers := map[string]layerRecord{}
	for _, chain := range c.pool.chains() {
		layers[chain] = layerRecord{ChainID: chain}
	}
	for id, r := range c.cat.view().records {
		c.report.Images++
		for _, l := range r.Layers {
			byLayer[l.ChainID] = append(byLayer[l.ChainID], id)
			layers[l.ChainID] = l
		}
	}
	for chain, l := range layers {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		c.report.Layers++
		faults, err := c.faults(ctx, l)
		if err != nil {
			return err
		}
		if len(faults) > 0 {
			c.layer(ctx, chain, byLayer[chain], faults)
		}
	}
	return nil
}

// faults verifies one layer and returns its faults, none if it was deleted meanwhile.
func (c *checker) faults(ctx context.Context, l layerRecord) ([]string, error) {
	release, err := c.pool.holdBriefly([]string{l.ChainID})
	if err != nil {
		return nil, nil
	}
	defer release()
	dir := c.pool.path(l.ChainID)
	if l.DiffID == "" { // no image has the layer, so its digest is unknown: it must be readable
		if err := layer.Assemble(dir, &contextWriter{ctx, new(counter)}); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if failure.IsShortage(err) {
				return nil, fmt.Errorf("check layer %s: %w", l.ChainID, err)
			}
			return []string{err.Error()}, nil
		}
		return nil, nil
	}
	faults, err := layer.Verify(ctx, dir, digest.Digest(l.DiffID))
	if err != nil {
		return nil, fmt.Errorf("check layer %s: %w", l.ChainID, err)
	}
	if u, err := dirtree.Measure(ctx, dir); err == nil && l.Inodes > 0 && u.Inodes != l.Inodes {
		faults = append(faults, fmt.Sprintf("%d files and directories, %d were unpacked", u.Inodes, l.Inodes))
	}
	return faults, nil
}

// layer reports the faults of a layer. To repair them it removes the layer and all images
// that have it.
func (c *checker) layer(ctx context.Context, chain string, images, faults []string) {
	var err error
	if c.repair {
		var remove func(context.Context) error
		err = c.cat.removeAllWith(chain, func() (err error) {
			remove, err = c.pool.drop(chain)
			return err
		})
		if err == nil {
			err = remove(ctx)
		}
	}
	if len(images) == 0 {
		images = []string{""}
	}
	slices.Sort(images)
	for _, id := range images {
		for _, f := range faults {
			p := Problem{Image: id, Layer: chain, What: f, Repaired: c.repair && err == nil}
			if err != nil {
				p.What += fmt.Sprintf(" (repair failed: %v)", err)
			}
			c.report.Problems = append(c.report.Problems, p)
		}
	}
}

// records reports the images that [Open] left out because their records can't be used.
func (c *checker) records() {
	bad, err := c.cat.unreadable()
	if err != nil {
		c.report.Problems = append(c.report.Problems, Problem{What: err.Error()})
	}
	for _, id := range slices.Sorted(maps.Keys(bad)) {
		p := Problem{Image: id, What: "its record was unreadable, or a layer of it was missing, when the store was opened"}
		if c.repair {
			p.Repaired = os.Remove(bad[id]) == nil
		}
		c.report.Problems = append(c.report.Problems, p)
	}
}
