package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/tally"
)

// period of the probes of one pod.
const period = 100 * time.Millisecond

// probes is the phase of that name: pods with a container and an exec probe each, while
// both programs are killed.
func (p *phase) probes(ctx context.Context) error {
	if err := p.watch(ctx); err != nil {
		return err
	}
	before, err := p.level(ctx)
	if err != nil {
		return err
	}
	workers, err := p.probeWorkers()
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, p.opts.clients) // else the last pod waits for all others
	for _, w := range workers {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			w.runProbed(ctx)
		})
	}
	wg.Wait()
	if p.Problems() == 0 {
		if err := p.probe(ctx, workers); err != nil {
			return err
		}
	}
	for _, w := range workers {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			w.endProbed(ctx)
		})
	}
	wg.Wait()
	p.checkWitness(ctx)
	for _, w := range workers {
		w.cri.Close()
	}
	if p.Problems() > 0 {
		return nil // the caller has them
	}
	after, err := p.level(ctx)
	if err != nil {
		return err
	}
	p.say(fmt.Sprintf("probes: before %v\nprobes: after %v", before, after))
	p.compare(ctx, []level{before, after})
	return nil
}

func (p *phase) probeWorkers() ([]*worker, error) {
	var out []*worker
	for i := range p.opts.probed {
		cri, err := p.dial()
		if err != nil {
			return nil, err
		}
		out = append(out, &worker{phase: p, number: i, cri: cri, rng: rand.New(rand.NewPCG(p.opts.seed, uint64(2000+i)))})
	}
	return out, nil
}

// runProbed makes the client's pod and a container that runs until it is told to end.
func (w *worker) runProbed(ctx context.Context) {
	if w.runPod(ctx); len(w.pods) == 0 {
		return
	}
	p := w.pods[0]
	for w.living(p) == nil && ctx.Err() == nil && w.Problems() == 0 {
		w.createContainer(ctx, p)
		w.startContainer(ctx, p)
		if c := w.pick(p, func(c *container) bool { return c.brief }); c != nil {
			w.removeContainer(ctx, p)
		}
	}
	for w.Problems() == 0 && ctx.Err() == nil {
		if w.execute(ctx, p); w.living(p).trapped {
			return
		}
	}
}

// probe executes in every pod, and kills, until all kills are done.
func (p *phase) probe(ctx context.Context, workers []*worker) error {
	probing, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(func() {
			tick := time.NewTicker(period)
			defer tick.Stop()
			for probing.Err() == nil && w.Problems() == 0 {
				if c := w.living(w.pods[0]); c != nil {
					w.executes(ctx, "probe", c, "echo alive", "alive\n")
				} else {
					w.Problem("a container is lost\n%s", w.pods[0].tell())
				}
				select {
				case <-tick.C:
				case <-probing.Done():
				}
			}
		})
	}
	err := p.killAll(ctx)
	stop()
	wg.Wait()
	return err
}

// killAll kills berthd and the shim so often each, in random order.
func (p *phase) killAll(ctx context.Context) error {
	r := rand.New(rand.NewPCG(p.opts.seed, 3000))
	order := append(make([]bool, p.opts.kills), make([]bool, p.opts.kills)...)
	for i := range p.opts.kills {
		order[i] = true
	}
	r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	for _, shim := range order {
		if ctx.Err() != nil || p.Problems() > 0 {
			return context.Cause(ctx)
		}
		time.Sleep(time.Duration(r.Int64N(int64(p.opts.every)))) // the moment of the kill is what is tested
		if !shim {
			if err := p.killDaemon(ctx, r); err != nil {
				return err
			}
			continue
		}
		if !p.haste.allows() {
			time.Sleep(hasty - time.Since(p.haste.since))
		}
		if err := p.killShim(ctx); err != nil {
			return err
		}
	}
	return nil
}

// endProbed ends the container by its signal, and then the pod.
func (w *worker) endProbed(ctx context.Context) {
	for _, p := range w.pods {
		w.look(ctx, p)
		c := w.living(p)
		if c == nil {
			w.Problem("a container is lost\n%s", p.tell())
			continue
		}
		c.began(c.code)
		o, err := w.until(ctx, "stop", func(ctx context.Context) error { return w.cri.StopContainer(ctx, c.id, patience/2) })
		c.note("stop: %s %v", o, err)
		if o == tally.Wrong {
			w.wrong("stop", err, c.tell())
		}
		var st *runtimeapi.ContainerStatus
		o, err = w.until(ctx, "status", func(ctx context.Context) (err error) {
			st, err = w.cri.ContainerStatus(ctx, c.id)
			return err
		})
		if o != tally.Fine || st.GetState() != exited || st.GetExitCode() != c.code {
			w.Problem("a container must have ended with %d: %v, %v\n%s", c.code, st, err, c.tell())
		}
	}
	for len(w.pods) > 0 && ctx.Err() == nil && w.Problems() == 0 {
		w.removePod(ctx, w.pods[0])
	}
}
