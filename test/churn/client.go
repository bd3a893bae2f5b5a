package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"berth/test/client"
	"berth/test/tally"

	"google.golang.org/grpc/codes"
)

// worker pulls and removes, one call after the other.
type worker struct {
	*churner
	number  int
	rng     *rand.Rand
	cri     *client.Client
	private private
	pod     *pod // what it holds; nil: nothing
	pods    int  // that it has made
}

func (c *churner) newWorkers() ([]*worker, error) {
	var out []*worker
	for i := range c.opts.clients {
		cri, err := client.Dial(c.node.Endpoint)
		if err != nil {
			return nil, err
		}
		cl := &worker{churner: c, number: i, rng: rand.New(rand.NewPCG(c.opts.seed, uint64(i)+1)), cri: cri}
		out = append(out, cl)
		if err := cl.makePrivate(); err != nil {
			return out, err
		}
	}
	return out, nil
}

// take tells whether one more operation is to be done.
func (c *worker) take(ctx context.Context) bool {
	if ctx.Err() != nil || c.ended() {
		return false
	}
	if c.done.Add(1) <= c.limit.Load() {
		return true
	}
	c.done.Add(-1)
	return false
}

// work does operations until the round has enough, and lets go of what it holds.
func (c *worker) work(ctx context.Context) {
	for c.take(ctx) {
		switch x := c.rng.IntN(100); {
		case x < 15:
			c.privateStep(ctx)
		case x < 18:
			c.moveTag()
			c.pullMoving(ctx)
		case x < 19:
			c.remove(ctx, movingTag)
		case x < 58:
			c.pullOne(ctx)
		default:
			c.remove(ctx, one(c.rng, c.pick().removable()))
		}
		c.podStep(ctx)
	}
	c.dropPods(ctx)
}

func one[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func (c *worker) pick() *picture { return one(c.rng, c.common) }

// pullOne pulls a common image by one of its names, and sometimes gives up.
func (c *worker) pullOne(ctx context.Context) {
	p := c.pick()
	name := one(c.rng, p.names)
	if c.rng.IntN(8) > 0 {
		c.pull(ctx, "pull", name, p.id)
		return
	}
	short := time.Duration(c.rng.IntN(60_000)) * time.Microsecond
	c.call(ctx, "pull", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, short)
		defer cancel()
		_, err := c.cri.Pull(ctx, name)
		return err
	}, reason{codes.DeadlineExceeded, tally.GaveUp}, reason{codes.Canceled, tally.GaveUp})
}

// pull pulls an image, which must turn out to be one of those.
func (c *worker) pull(ctx context.Context, kind, name string, ids ...string) tally.Outcome {
	return c.call(ctx, kind, func(ctx context.Context) error {
		id, err := c.cri.Pull(ctx, name)
		if err == nil && !slices.Contains(ids, id) {
			err = fmt.Errorf("%s turned out to be %s, want one of %v", name, id, ids)
		}
		return err
	})
}

func (c *worker) remove(ctx context.Context, name string) tally.Outcome {
	return c.call(ctx, "removal", func(ctx context.Context) error { return c.cri.RemoveImage(ctx, name) })
}

// moving are the images that the moving tag is of, one after the other.
func (c *churner) moving() []*picture { return c.common[:2] }

func (c *worker) moveTag() {
	if err := c.reg.Push(movingTag, one(c.rng, c.moving()).image); err != nil {
		c.Problem("move the tag: %v", err)
	}
}

func (c *worker) pullMoving(ctx context.Context) {
	c.pull(ctx, "pull", movingTag, c.moving()[0].id, c.moving()[1].id)
}
