package main

import (
	"context"
	"fmt"
	"maps"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/tally"
)

// private are a client's own images: two, each with a tag, and a tag that moves
// from one to the other. Since nobody else touches them, the client knows at any
// time what must be listed.
type private struct {
	images [2]*picture
	tags   [3]string // of image 0, of image 1, moving
	target int       // where the moving tag is in the registry
	there  names
}

// names says which image each tag leads to in the store; absent: none.
type names map[string]string

func (c *worker) makePrivate() error {
	p := &c.private
	p.there = names{}
	for i := range p.images {
		name := fmt.Sprintf("private%d-%d", c.number, i)
		own, err := layerOf(name, 30)
		if err != nil {
			return err
		}
		img, err := c.add(name, i == 1, c.bottom, c.middle[c.number%3], own)
		if err != nil {
			return err
		}
		p.images[i], p.tags[i] = img, img.names[0]
	}
	p.tags[2] = fmt.Sprintf("%sprivate%d:latest", repository, c.number)
	return c.reg.Push(p.tags[2], p.images[0].image)
}

// privateStep pulls or removes one of the client's own images, after looking
// whether what it knows is still so.
func (c *worker) privateStep(ctx context.Context) {
	p := &c.private
	if now, ok := c.look(ctx); ok && !maps.Equal(now, p.there) {
		c.Problem("client %d: its images are %v, must be %v", c.number, now, p.there)
		p.there = now
	}
	before, after := p.there, maps.Clone(p.there)
	var o tally.Outcome
	tag := c.rng.IntN(len(p.tags))
	if c.rng.IntN(5) < 3 {
		img := p.images[tag%2]
		if tag == 2 {
			p.target = 1 - p.target
			img = p.images[p.target]
			if err := c.reg.Push(p.tags[2], img.image); err != nil {
				c.Problem("move a tag: %v", err)
			}
		}
		after[p.tags[tag]] = img.id
		o = c.pull(ctx, "pull", p.tags[tag], img.id)
	} else {
		id := after[p.tags[tag]]
		maps.DeleteFunc(after, func(_, of string) bool { return of == id })
		o = c.remove(ctx, p.tags[tag])
	}
	p.there = after
	if o == tally.Fine {
		return
	}
	// Cut short, it happened or it didn't.
	if now, ok := c.look(ctx); ok {
		if !maps.Equal(now, before) && !maps.Equal(now, after) {
			c.Problem("client %d: its images are %v, must be %v or %v", c.number, now, before, after)
		}
		p.there = now
	}
}

// look asks the daemon of the moment for all the client's own images. It is not ok
// when the run is over.
func (c *worker) look(ctx context.Context) (now names, ok bool) {
	now = names{}
	for _, tag := range c.private.tags {
		o := tally.Cut
		for o == tally.Cut {
			o = c.call(ctx, "image status", func(ctx context.Context) error {
				r, err := c.cri.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: tag}})
				if id := r.GetImage().GetId(); id != "" {
					now[tag] = id
				}
				return err
			})
		}
		if o != tally.Fine {
			return nil, false
		}
	}
	return now, true
}
