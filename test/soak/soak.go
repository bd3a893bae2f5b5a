package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
	"berth/test/registry"
	"berth/test/tally"
)

// patience bounds one call: longer, and what it is about counts as stuck. Machines that
// run this are shared; on one that is slow BERTH_TEST_PATIENCE makes it longer.
var patience = 3 * client.Patience

// phase is one part of a soak, on a node of its own.
type phase struct {
	tally.Tally
	name string
	opts options
	node *node.Node
	reg  *registry.Registry
	say  func(string)
	witness

	outages  atomic.Uint64 // how often a program went or came: odd while one is away
	bothDead atomic.Uint64 // how often berthd and a shim were dead at the same time
	lives    atomic.Uint64 // pods that came and went
	most     atomic.Int64  // pods at the same time
	alive    atomic.Int64
	killed   killCount
	haste    haste
}

// soak runs the phases one after the other.
func soak(ctx context.Context, opts options, say func(string)) error {
	say(fmt.Sprintf("soak: -seed %d -phases %v: %d clients, up to %d pods", opts.seed, opts.phases, opts.clients, opts.pods))
	reg, err := registry.Start()
	if err != nil {
		return err
	}
	if err := pushImages(reg, opts.clients); err != nil {
		return errors.Join(err, reg.Close())
	}
	var errs []error
	for _, name := range opts.phases {
		if ctx.Err() != nil {
			break
		}
		p := &phase{name: name, opts: opts, reg: reg, say: say}
		if err := p.whole(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(append(errs, context.Cause(ctx), reg.Close())...)
}

// whole starts the node of a phase, runs the phase, and ends the node, which tells what
// is left on the machine.
func (p *phase) whole(ctx context.Context) (err error) {
	bin := p.opts.bin
	if (p.name == "kills" || p.name == "probes") && p.opts.race != "" {
		bin = p.opts.race
	}
	dir, err := os.MkdirTemp("/var/tmp", "berth-soak-")
	if err != nil {
		return err
	}
	p.node, err = node.Start(ctx, node.Options{
		Registry: p.reg, Tmpfs: true, Dir: dir, Binary: filepath.Join(bin, "berthd"),
		Args: []string{"--metrics-address", "unix://" + filepath.Join(dir, "metrics.sock"), "--log-level", "2"},
	})
	if err != nil {
		return err
	}
	began := time.Now()
	work := p.rounds
	if p.name == "probes" {
		work = p.probes
	}
	err = work(ctx)
	p.say(fmt.Sprintf("%s, %v: %d pods lived, %d at the same time at most, %d calls; %s; %d violations",
		p.name, time.Since(began).Round(time.Second), p.lives.Load(), p.most.Load(), p.Calls(), p.killed.String(), p.Problems()))
	p.say(p.Tally.String())
	p.searchLogs()
	err = errors.Join(err, p.Err())
	if err != nil {
		p.keepLog()
	}
	return errors.Join(err, p.node.Close())
}

// rounds are the phases steady, kills and lives.
func (p *phase) rounds(ctx context.Context) error {
	if err := p.watch(ctx); err != nil {
		return err
	}
	workers, err := p.newWorkers()
	defer func() {
		for _, w := range workers {
			w.cri.Close()
		}
	}()
	if err != nil {
		return err
	}
	var levels []level
	for round := range p.opts.rounds {
		if err := p.round(ctx, round, workers); err != nil {
			return err
		}
		if p.Problems() > 0 {
			return nil // the caller has them
		}
		l, err := p.level(ctx)
		if err != nil {
			return err
		}
		p.say(fmt.Sprintf("%s round %d/%d: %d pods lived, %d calls, %d violations; %v", p.name, round+1, p.opts.rounds, p.lives.Load(), p.Calls(), p.Problems(), l))
		levels = append(levels, l)
		p.compare(ctx, levels)
	}
	return nil
}

// round lets the clients work for their part of the time, with kills in the phase of
// that name, and then waits until all their pods are gone.
func (p *phase) round(ctx context.Context, number int, workers []*worker) error {
	working, stop := context.WithTimeout(ctx, p.opts.length/time.Duration(p.opts.rounds))
	defer stop()
	killing, stopKilling := context.WithCancel(ctx)
	defer stopKilling()
	killed := make(chan error, 1)
	go func() {
		if p.name != "kills" {
			killed <- nil
			return
		}
		killed <- p.killer(killing, rand.New(rand.NewPCG(p.opts.seed, uint64(1000+number))))
	}()
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(func() {
			if p.name == "lives" {
				w.live(ctx, p.opts.lives*(number+1)/p.opts.rounds)
				return
			}
			w.work(ctx, working)
		})
	}
	wg.Wait()
	stopKilling()
	if err := <-killed; err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.checkWitness(ctx)
	return nil
}

// call makes a call and counts how it ended: fine, cut short by a kill, or wrong, which
// may yet be as it must be, and is for the caller to judge.
func (p *phase) call(ctx context.Context, kind string, f func(context.Context) error) (tally.Outcome, error) {
	before := p.outages.Load()
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := f(patient)
	o := tally.Fine
	switch {
	case err == nil:
	case ctx.Err() != nil:
		o = tally.GaveUp // the run is over
	case status.Code(err) == codes.Unavailable && (before%2 == 1 || p.outages.Load() != before):
		o = tally.Cut
	default:
		return tally.Wrong, err // counted by who judges it
	}
	p.Count(kind, o)
	return o, err
}

// until repeats a call that changes nothing, or that may be repeated, until it is not cut
// short.
func (p *phase) until(ctx context.Context, kind string, f func(context.Context) error) (tally.Outcome, error) {
	for {
		if o, err := p.call(ctx, kind, f); o != tally.Cut {
			return o, err
		}
	}
}

// wrong counts a call that failed as it must not.
func (p *phase) wrong(kind string, err error, story string) {
	p.Count(kind, tally.Wrong)
	p.Problem("%s: %s: %v\n%s", time.Now().Format(clock), kind, err, story)
}

// clock is how stories tell the time; it is that of berthd's log.
const clock = "15:04:05.000000"

// labels are those of a client's pods and containers.
func labels(owner string) map[string]string { return map[string]string{"soak": owner} }

// named are the labels of one of them.
func named(owner, name string) map[string]string {
	return map[string]string{"soak": owner, "name": name}
}

// podConfig is a pod on the host's network, or on one of its own.
func (p *phase) podConfig(owner, name string, own bool) (*runtimeapi.PodSandboxConfig, error) {
	logs, err := os.MkdirTemp(p.node.LogDir, name+"-")
	if err != nil {
		return nil, err
	}
	c := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "soak", Uid: name},
		LogDirectory: logs,
		Labels:       named(owner, name),
		Linux:        &runtimeapi.LinuxPodSandboxConfig{},
	}
	if !own {
		c.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
		}
	}
	return c, nil
}

// dial connects for one client.
func (p *phase) dial() (*client.Client, error) { return client.Dial(p.node.Endpoint) }
