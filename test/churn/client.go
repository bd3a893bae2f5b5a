package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// client pulls and removes, one call after the other.
type client struct {
	*churner
	number  int
	rng     *rand.Rand
	conn    *grpc.ClientConn
	images  runtimeapi.ImageServiceClient
	runtime runtimeapi.RuntimeServiceClient
	private private
	pod     *pod // what it holds; nil: nothing
	pods    int  // that it has made
}

func (c *churner) newClients() ([]*client, error) {
	var out []*client
	for i := range c.opts.clients {
		conn, err := dial(c.node.Endpoint)
		if err != nil {
			return nil, err
		}
		cl := &client{
			churner: c, number: i, rng: rand.New(rand.NewPCG(c.opts.seed, uint64(i)+1)), conn: conn,
			images: runtimeapi.NewImageServiceClient(conn), runtime: runtimeapi.NewRuntimeServiceClient(conn),
		}
		out = append(out, cl)
		if err := cl.makePrivate(); err != nil {
			return out, err
		}
	}
	return out, nil
}

// dial makes a connection that is there again soon after the daemon is.
func dial(endpoint string) (*grpc.ClientConn, error) {
	again := backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 50 * time.Millisecond}
	return grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: again, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
}

// take tells whether one more operation is to be done.
func (c *client) take(ctx context.Context) bool {
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
func (c *client) work(ctx context.Context) {
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

func (c *client) pick() *picture { return one(c.rng, c.common) }

// pullOne pulls a common image by one of its names, and sometimes gives up.
func (c *client) pullOne(ctx context.Context) {
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
		_, err := c.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: name}})
		return err
	}, reason{codes.DeadlineExceeded, gaveUp}, reason{codes.Canceled, gaveUp})
}

// pull pulls an image, which must turn out to be one of those.
func (c *client) pull(ctx context.Context, kind, name string, ids ...string) outcome {
	return c.call(ctx, kind, func(ctx context.Context) error {
		r, err := c.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: name}})
		if err != nil {
			return err
		}
		for _, id := range ids {
			if r.GetImageRef() == id {
				return nil
			}
		}
		return fmt.Errorf("%s turned out to be %s, want %v", name, r.GetImageRef(), ids)
	})
}

func (c *client) remove(ctx context.Context, name string) outcome {
	return c.call(ctx, "removal", func(ctx context.Context) error {
		_, err := c.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: name}})
		return err
	})
}

// moving are the images that the moving tag is of, one after the other.
func (c *churner) moving() []*picture { return c.common[:2] }

func (c *client) moveTag() {
	if err := c.reg.Push(movingTag, one(c.rng, c.moving()).image); err != nil {
		c.problem("move the tag: %v", err)
	}
}

func (c *client) pullMoving(ctx context.Context) {
	c.pull(ctx, "pull", movingTag, c.moving()[0].id, c.moving()[1].id)
}
