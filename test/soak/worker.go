package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	"berth/test/client"
	"berth/test/tally"
)

// worker is one client, with pods that only it knows.
type worker struct {
	*phase
	number int
	rng    *rand.Rand
	cri    *client.Client
	pods   []*pod
	made   int // pods
	image  ownedImage
}

func (p *phase) newWorkers() ([]*worker, error) {
	var out []*worker
	for i := range p.opts.clients {
		cri, err := p.dial()
		if err != nil {
			return out, err
		}
		out = append(out, &worker{
			phase: p, number: i, cri: cri, rng: rand.New(rand.NewPCG(p.opts.seed, uint64(i)+1)),
			image: ownedImage{name: ownImage(i), may: []bool{false}},
		})
	}
	return out, nil
}

func (w *worker) owner() string { return strconv.Itoa(w.number) }

// verb is something that a client does with one of its pods.
type verb struct {
	weight int
	do     func(*worker, context.Context, *pod)
}

var verbs = []verb{
	{14, (*worker).createContainer},
	{14, (*worker).startContainer},
	{16, (*worker).execute},
	{10, (*worker).echo},
	{4, (*worker).rotate},
	{8, (*worker).stopContainer},
	{8, (*worker).removeContainer},
	{6, (*worker).update},
	{6, (*worker).statistics},
	{10, (*worker).look},
	{3, (*worker).attach},
	{3, (*worker).stopPod},
	{5, (*worker).removePod},
}

// work makes calls until working ends, and then removes all that it has. ctx ends the run.
func (w *worker) work(ctx, working context.Context) {
	total := 0
	for _, v := range verbs {
		total += v.weight
	}
	for working.Err() == nil && w.Problems() == 0 {
		switch x := w.rng.IntN(100); {
		case x < 4:
			w.imageStep(ctx)
		case x < 8:
			w.list(ctx)
		case len(w.pods) == 0 || x < 20 && len(w.pods) < w.opts.pods/w.opts.clients:
			w.runPod(ctx)
		default:
			w.verb(w.rng.IntN(total)).do(w, ctx, w.pods[w.rng.IntN(len(w.pods))])
		}
	}
	w.end(ctx)
}

// podsPerNetwork is how many pods there are in lives for each with a network of its own, whose
// plugins would take most of the time.
const podsPerNetwork = 10

// live has pods come and go, one after the other, until so many have in all.
func (w *worker) live(ctx context.Context, until int) {
	for ctx.Err() == nil && w.Problems() == 0 && w.lives.Load() < uint64(until) { //nolint:gosec // not negative
		p := w.makePod(ctx, w.rng.IntN(podsPerNetwork) == 0)
		if p == nil {
			return
		}
		w.createContainer(ctx, p)
		w.startContainer(ctx, p)
		w.look(ctx, p)
		w.removePod(ctx, p)
	}
}

// verb is the one that number n falls to, by weight.
func (w *worker) verb(n int) verb {
	for _, v := range verbs {
		if n -= v.weight; n < 0 {
			return v
		}
	}
	return verbs[0]
}

// end looks at everything once more and removes it.
func (w *worker) end(ctx context.Context) {
	w.list(ctx)
	for _, p := range slices.Clone(w.pods) {
		w.look(ctx, p)
	}
	for len(w.pods) > 0 && ctx.Err() == nil && w.Problems() == 0 {
		w.removePod(ctx, w.pods[0])
	}
	w.removeImage(ctx)
}

// pick is one of the pod's containers that fits; nil: there is none.
func (w *worker) pick(p *pod, fits func(*container) bool) *container {
	var all []*container
	for _, c := range p.containers {
		if fits(c) {
			all = append(all, c)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[w.rng.IntN(len(all))]
}

// twice makes a call, and now and then makes it twice at the same time, as a client does
// that retries before it has an answer. Both must end alike.
func (w *worker) twice(ctx context.Context, kind string, f func(context.Context) error) (tally.Outcome, error) {
	if w.rng.IntN(8) > 0 {
		return w.call(ctx, kind, f)
	}
	type answer struct {
		o   tally.Outcome
		err error
	}
	other := make(chan answer, 1)
	go func() {
		o, err := w.call(ctx, kind+", twin", f)
		other <- answer{o, err}
	}()
	o, err := w.call(ctx, kind, f)
	twin := <-other
	if (o == tally.Fine) != (twin.o == tally.Fine) && (o == tally.Wrong || twin.o == tally.Wrong) {
		err = fmt.Errorf("of two equal calls one ended with %s, %w, the other with %s, %w", o, err, twin.o, twin.err)
		return tally.Wrong, err
	}
	if o == tally.Cut && twin.o == tally.Fine {
		return twin.o, nil
	}
	return o, err
}

// lostSince tells whether berthd and a shim were dead at the same time since then.
func (p *phase) lostSince(bothDead uint64) bool { return p.bothDead.Load() != bothDead }
