package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"berth/test/node"
	"berth/test/registry"
	"berth/test/tally"
)

// farAway is how long the registry takes to start with a blob, at most.
const farAway = 60 * time.Millisecond

// churner is one run.
type churner struct {
	tally.Tally
	opts options
	node *node.Node
	gallery
	verifier verifier

	done    atomic.Int64  // operations handed out
	limit   atomic.Int64  // of done, in this round
	outages atomic.Uint64 // how often the daemon went or came: odd while it is away
	over    atomic.Bool

	killRandom   *rand.Rand
	kills, early int // early: of them while the daemon was starting
	took         time.Duration
	found        []string // by the verification of each round
}

func (c *churner) ended() bool { return c.over.Load() }

// churn does a whole run. The churner is nil when nothing could be started.
func churn(ctx context.Context, opts options) (c *churner, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, opts.timeout, fmt.Errorf("not done after %v", opts.timeout))
	defer cancel()
	reg, err := registry.Start()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, reg.Close()) }()
	g, err := newGallery(reg)
	if err != nil {
		return nil, err
	}
	reg.Wrap(slow)
	n, err := node.Start(ctx, node.Options{Registry: reg, Tmpfs: true, NoNetwork: true, Binary: opts.berthd})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	c = &churner{opts: opts, node: n, gallery: *g, killRandom: rand.New(rand.NewPCG(opts.seed, 0))}
	err = c.whole(ctx)
	return c, errors.Join(err, c.Err())
}

// slow answers requests for blobs after a while, as a registry far away would, so
// that pulls overlap and are under way when the daemon is killed.
func slow(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			select {
			case <-time.After(rand.N(farAway)):
			case <-r.Context().Done():
				return
			}
		}
		inner.ServeHTTP(w, r)
	})
}

// whole is everything between the start of the node and its end.
func (c *churner) whole(ctx context.Context) error {
	clients, err := c.newWorkers()
	if err != nil {
		return err
	}
	defer func() {
		for _, cl := range clients {
			cl.cri.Close()
		}
	}()
	c.verifier = verifier{node: c.node, known: c.known}
	if err := c.verifier.learn(ctx); err != nil {
		return fmt.Errorf("before anything is killed: %w", err)
	}
	// What one daemon counts wrong the next one may set right without a trace: so all
	// is verified several times.
	for round := range c.opts.rounds {
		c.limit.Store(int64(c.opts.n * (round + 1) / c.opts.rounds))
		if err := c.work(ctx, clients); err != nil {
			return err
		}
		if err := c.verify(ctx); err != nil {
			return fmt.Errorf("in round %d of %d: %w", round+1, c.opts.rounds, err)
		}
		if err := c.Err(); err != nil {
			return nil // the caller has it
		}
	}
	return nil
}

// work runs the clients to their end, and kills the daemon meanwhile.
func (c *churner) work(ctx context.Context, clients []*worker) error {
	began := time.Now()
	killing, stop := context.WithCancel(ctx)
	killed := make(chan error, 1)
	go func() { killed <- c.killer(killing) }()
	var wg sync.WaitGroup
	for _, cl := range clients {
		wg.Go(func() { cl.work(ctx) })
	}
	// A daemon that can't be started again ends the run, not the patience of every call.
	finished := make(chan struct{})
	go func() { wg.Wait(); close(finished) }()
	var err error
	select {
	case <-finished:
		stop()
		err = <-killed
	case err = <-killed:
		c.over.Store(true)
		for _, cl := range clients {
			cl.cri.Close()
		}
		<-finished
		stop()
	}
	c.took += time.Since(began)
	if err == nil {
		err = context.Cause(ctx)
	}
	return err
}

// verify looks at the daemon there is, and again after one more kill.
func (c *churner) verify(ctx context.Context) error {
	// What a client gave up is cleared away after its call has ended.
	settled, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := c.verifier.verify(ctx)
	for err != nil && settled.Err() == nil {
		<-time.After(100 * time.Millisecond)
		_, err = c.verifier.verify(ctx)
	}
	if err != nil {
		return fmt.Errorf("after the last operation: %w", err)
	}
	if err := errors.Join(c.node.Kill(), c.node.Restart(ctx)); err != nil {
		return err
	}
	c.kills++
	found, err := c.verifier.verify(ctx)
	if err != nil {
		return fmt.Errorf("after one more kill: %w", err)
	}
	c.found = append(c.found, found)
	return nil
}

// killer kills the daemon until ctx is done; then there is one that is ready.
func (c *churner) killer(ctx context.Context) error {
	r := c.killRandom
	for {
		pause := c.opts.every/2 + time.Duration(r.Int64N(int64(c.opts.every)))
		if r.IntN(8) == 0 {
			pause = time.Duration(r.IntN(100)) * time.Millisecond // hardly ready
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		c.outages.Add(1)
		if err := c.node.Kill(); err != nil {
			return err
		}
		c.kills++
		if r.IntN(4) == 0 {
			if err := c.killStarting(time.Duration(r.IntN(100)) * time.Millisecond); err != nil {
				return err
			}
		}
		// Not ctx: the end of the run needs a daemon.
		if err := c.node.Restart(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		c.outages.Add(1)
	}
}

// killStarting starts the daemon and kills it after a moment.
func (c *churner) killStarting(after time.Duration) error {
	started := make(chan error, 1)
	go func() { started <- c.node.Restart(context.Background()) }()
	<-time.After(after)
	err := c.node.Kill()
	if serr := <-started; serr != nil && c.node.PID() != 0 {
		return errors.Join(err, serr)
	}
	if c.node.PID() != 0 { // the kill came before the process
		err = errors.Join(err, c.node.Kill())
	}
	c.kills++
	c.early++
	return err
}

// report is what the run did, for people.
func (c *churner) report() string {
	var b strings.Builder
	ops := int(min(c.done.Load(), c.limit.Load()))
	fmt.Fprintf(&b, "%d pulls and removals in %v (%.0f/s), %d kills, %d of them while berthd started\n",
		ops, c.took.Round(time.Millisecond), float64(ops)/max(c.took.Seconds(), 1e-3), c.kills, c.early)
	b.WriteString(c.String())
	for i, f := range c.found {
		fmt.Fprintf(&b, "round %d: %s\n", i+1, f)
	}
	return b.String()
}
