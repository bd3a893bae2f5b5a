package main

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// warmups are pods and execs of each runtime that are not counted.
const warmups = 2

// measurePodUp brings pods up and down one after another, in turns.
func (b *bench) measurePodUp(ctx context.Context) error {
	round := 0
	return b.turns(ctx, warmups+b.opts.n, func(r *runtimeUnderTest) error {
		defer func() { round++ }()
		p, up, err := r.up(ctx, containerConfig(b.busybox))
		if err != nil {
			return err
		}
		down, err := r.down(ctx, p)
		if err != nil || round < warmups*len(b.runtimes) {
			return err
		}
		b.report.time("pod.up", r.name, up.total())
		b.report.time("pod.up.run", r.name, up.run)
		b.report.time("pod.up.create", r.name, up.create)
		b.report.time("pod.up.start", r.name, up.start)
		b.report.time("pod.down", r.name, down.total())
		b.report.time("pod.down.stop_ctr", r.name, down.stopContainer)
		b.report.time("pod.down.remove_ctr", r.name, down.removeContainer)
		b.report.time("pod.down.stop_pod", r.name, down.stopPod)
		b.report.time("pod.down.remove_pod", r.name, down.removePod)
		return nil
	})
}

// measureExec runs `true` in one pod of each runtime, in turns.
func (b *bench) measureExec(ctx context.Context) error {
	calls := 0
	return b.inPods(ctx, containerConfig(b.busybox), warmups+3*b.opts.n, func(r *runtimeUnderTest, p *pod) error {
		spent, err := timed(func() error { return r.exec(ctx, p) })
		if calls++; err == nil && calls > warmups*len(b.runtimes) {
			b.report.time("exec", r.name, spent)
		}
		return err
	})
}

// inPods calls fn in turns, with a pod of each runtime that is there all the while.
func (b *bench) inPods(ctx context.Context, container *runtimeapi.ContainerConfig, rounds int, fn func(*runtimeUnderTest, *pod) error) error {
	pods := map[*runtimeUnderTest]*pod{}
	for _, r := range b.runtimes {
		p, _, err := r.up(ctx, container)
		if err != nil {
			return r.explain(err)
		}
		pods[r] = p
	}
	if err := b.turns(ctx, rounds, func(r *runtimeUnderTest) error { return fn(r, pods[r]) }); err != nil {
		return err
	}
	for r, p := range pods {
		if _, err := r.down(ctx, p); err != nil {
			return r.explain(err)
		}
	}
	return nil
}

// measureParallel brings up and takes away batches, several pods at a time.
func (b *bench) measureParallel(ctx context.Context) error {
	return b.turns(ctx, b.opts.rounds, func(r *runtimeUnderTest) error {
		begin := time.Now()
		pods, err := b.upMany(ctx, r, b.opts.batch)
		if err != nil {
			return err
		}
		b.rate("parallel.run", r, begin)
		begin = time.Now()
		if err := b.downMany(ctx, r, pods); err != nil {
			return err
		}
		b.rate("parallel.remove", r, begin)
		return nil
	})
}

func (b *bench) rate(name string, r *runtimeUnderTest, begin time.Time) {
	b.report.value(name, r.name, "pods/s", float64(b.opts.batch)/time.Since(begin).Seconds())
}

// upMany brings up count pods, opts.parallel at a time.
func (b *bench) upMany(ctx context.Context, r *runtimeUnderTest, count int) ([]*pod, error) {
	var mu sync.Mutex
	var pods []*pod
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(b.opts.parallel)
	for range count {
		group.Go(func() error {
			p, _, err := r.up(ctx, containerConfig(b.busybox))
			if err != nil {
				return err
			}
			mu.Lock()
			pods = append(pods, p)
			mu.Unlock()
			return nil
		})
	}
	return pods, group.Wait()
}

// downMany takes pods away, opts.parallel at a time.
func (b *bench) downMany(ctx context.Context, r *runtimeUnderTest, pods []*pod) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(b.opts.parallel)
	for _, p := range pods {
		group.Go(func() error {
			_, err := r.down(ctx, p)
			return err
		})
	}
	return group.Wait()
}
