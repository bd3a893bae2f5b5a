package main

import (
	"context"
	"fmt"
	"time"
)

// settle is how long a runtime is left alone before its memory is read: what a
// burst of calls made busy is done then. Nothing announces that.
const settle = 3 * time.Second

// footprint is a runtime's memory in MiB, by kind of process.
type footprint struct {
	daemon, shims, pods  float64
	shimCount, otherPods int
}

// total is the daemon with its shims; pods' own processes apart.
func (f footprint) total() float64 { return f.daemon + f.shims }

// perPod is what pods cost besides the daemon.
func (f footprint) perPod() float64 { return f.shims + f.pods }

// measureMemory reads memory without and with many pods, and the idle CPU
// between. One runtime at a time, so that neither shares pages with the other's
// processes.
func (b *bench) measureMemory(ctx context.Context) error {
	for _, r := range b.runtimes {
		if err := b.memoryOf(ctx, r); err != nil {
			return r.explain(err)
		}
	}
	return nil
}

func (b *bench) memoryOf(ctx context.Context, r *runtimeUnderTest) error {
	if err := pauseFor(ctx, settle); err != nil {
		return err
	}
	before, err := r.footprint()
	if err != nil {
		return err
	}
	pods, err := b.upMany(ctx, r, b.opts.pods)
	if err != nil {
		return err
	}
	if err := pauseFor(ctx, settle); err != nil {
		return err
	}
	after, err := r.footprint()
	if err != nil {
		return err
	}
	n := float64(len(pods))
	b.report.value("memory.pss_per_pod", r.name, "MiB", after.perPod()/n)
	b.report.value("memory.pss_delta_per_pod", r.name, "MiB", (after.total()+after.pods-before.total()-before.pods)/n)
	b.report.value("memory.pause_per_pod", r.name, "MiB", after.pods/n)
	b.report.value("memory.daemon", r.name, "MiB", after.daemon)
	b.report.value("memory.daemon_no_pods", r.name, "MiB", before.daemon)
	b.report.value("memory.shims", r.name, "MiB", after.shims)
	b.report.value("memory.shim_count", r.name, "shims", float64(after.shimCount))
	b.report.value("memory.total", r.name, "MiB", after.total())
	if err := b.idleOf(ctx, r); err != nil {
		return err
	}
	return b.downMany(ctx, r, pods)
}

// footprint sums the proportional set sizes of a runtime's processes.
func (r *runtimeUnderTest) footprint() (footprint, error) {
	var f footprint
	for _, p := range r.processes() {
		if p.kind == kindWorkload {
			continue
		}
		mib, err := pss(p.pid)
		if err != nil {
			return f, fmt.Errorf("memory of %s (%d): %w", p.comm, p.pid, err)
		}
		switch p.kind {
		case kindDaemon:
			f.daemon += mib
		case kindShim:
			f.shims += mib
			f.shimCount++
		default:
			f.pods += mib
			f.otherPods++
		}
	}
	return f, nil
}

// idleOf reads how much CPU a runtime with idle pods uses, workloads apart.
func (b *bench) idleOf(ctx context.Context, r *runtimeUnderTest) error {
	begin, before := time.Now(), r.cpu()
	if err := pauseFor(ctx, b.opts.idle); err != nil {
		return err
	}
	spent := r.cpu() - before
	b.report.value("idle.cpu", r.name, "ms/s", spent/time.Since(begin).Seconds())
	return nil
}

// cpu is the CPU time of the daemon, its shims and its pauses so far, in ms.
func (r *runtimeUnderTest) cpu() float64 {
	var total float64
	for _, p := range r.processes() {
		if p.kind != kindWorkload {
			total += cpuMillis(p.pid)
		}
	}
	return total
}

// pauseFor waits, unless the run is cancelled.
func pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
