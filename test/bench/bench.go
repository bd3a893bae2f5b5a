package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// bench is one run: what it serves, what it drives, what it found.
type bench struct {
	opts     options
	cgroup   string // of the run
	cniBin   string
	children *children
	registry *loopback
	runtimes []*runtimeUnderTest
	report   *report
	busybox  string // reference of the workload's image
	pause    string // the compiled pause program
}

// measure is a named part of a run.
type measure struct {
	name string
	run  func(context.Context) error
}

// inner is the bench proper, in its namespaces.
func inner(ctx context.Context, opts options) (err error) {
	if err := isolate(opts.berthd, opts.containerd, opts.cniBin, opts.streams); err != nil {
		return fmt.Errorf("make a place of its own: %w", err)
	}
	run := os.Getenv(innerEnv)
	if err := enterAccount(run); err != nil {
		return fmt.Errorf("count CPU time: %w", err)
	}
	b := &bench{opts: opts, cgroup: run, children: newChildren(), report: newReport()}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	head := b.environment(ctx)
	begin := time.Now()
	failed := b.measureAll(ctx)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	head["load_after"] = load()
	head["seconds"] = int(time.Since(begin).Seconds())
	return errors.Join(failed, b.print(head)) // what was measured is worth telling all the same
}

// prepare starts the registry and the runtimes, and pulls the workload's image.
func (b *bench) prepare(ctx context.Context) error {
	if _, err := os.Stat(b.opts.streams); err != nil && b.opts.mode == "pods" && b.opts.only.MatchString("streams") {
		return fmt.Errorf("%w; run `make bench`, which builds it, or pass -streams, or -only for other measures", err)
	}
	var err error
	if b.cniBin, err = findCNI(b.opts.cniBin); err != nil {
		return err
	}
	if b.registry, err = serveRegistry(ctx, filepath.Join(benchDir, "registry")); err != nil {
		return err
	}
	if b.pause, err = makePause(ctx, b.children, b.opts.containerd, benchDir); err != nil {
		return err
	}
	if err := b.registry.publishPause(b.pause); err != nil {
		return err
	}
	if b.busybox, err = b.registry.publishBusybox(); err != nil {
		return err
	}
	for i, name := range b.opts.runtimes {
		if err := b.startRuntime(ctx, name, i); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) startRuntime(ctx context.Context, name string, index int) error {
	r, err := prepare(name, b.opts, b.place(name, index), b.children)
	if err != nil {
		return err
	}
	b.runtimes = append(b.runtimes, r)
	if err := r.start(ctx); err != nil {
		return err
	}
	return r.explain(r.pull(ctx, b.busybox))
}

// place gives a runtime its directory, cgroup and subnet by its name and index.
func (b *bench) place(name string, index int) place {
	dir := filepath.Join(benchDir, name)
	return place{
		dir: dir, root: filepath.Join(dir, "root"), cgroup: filepath.Join(b.cgroup, name),
		registry: b.registry.host, cniBin: b.cniBin, index: index, masq: b.opts.masq,
	}
}

// measureAll runs the measures of the mode that -only selects.
func (b *bench) measureAll(ctx context.Context) error {
	measures := []measure{
		{"podup", b.measurePodUp}, {"exec", b.measureExec}, {"parallel", b.measureParallel},
		{"growth.host", b.measureGrowth(network{"host", true})}, {"growth.bridge", b.measureGrowth(network{"bridge", false})},
		{"stats", b.measureStats}, {"restart", b.measureRestart}, {"logs", b.measureLogs}, {"streams", b.measureStreams},
		{"memory", b.measureMemory}, {"pull", b.measurePull}, {"floor", b.measureFloor},
	}
	if b.opts.mode == "pull" {
		measures = []measure{
			{"known", b.measureKnown}, {"200m", b.measurePull}, {"1g", b.measureLarge},
			{"60layers", b.measureManyLayers}, {"eight", b.measureEight}, {"disk", b.measureDisk},
		}
	}
	for _, m := range measures {
		if !b.opts.only.MatchString(m.name) {
			continue
		}
		begin := time.Now()
		fmt.Fprintf(os.Stderr, "bench: %s …", m.name)
		if err := m.run(ctx); err != nil {
			fmt.Fprintln(os.Stderr)
			return fmt.Errorf("%s: %w", m.name, err)
		}
		fmt.Fprintf(os.Stderr, " %.1fs\n", time.Since(begin).Seconds())
	}
	return nil
}

// turns calls fn for every runtime, rounds times; who begins alternates, so
// that neither always runs on what the other left in caches.
func (b *bench) turns(ctx context.Context, rounds int, fn func(*runtimeUnderTest) error) error {
	order := slices.Clone(b.runtimes)
	for range rounds {
		for _, r := range order {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(r); err != nil {
				return r.explain(err)
			}
		}
		slices.Reverse(order)
	}
	return nil
}

// environment is the first line of JSON: what the figures were taken on.
func (b *bench) environment(ctx context.Context) map[string]any {
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	head := map[string]any{
		"name": "environment", "mode": b.opts.mode, "kernel": unix.ByteSliceToString(uts.Release[:]),
		"cpus": cpus(), "cgroup_trees": len(hierarchies()), "load_before": load(), "masq": b.opts.masq,
		"cni": b.cniBin, "n": b.opts.n, "rounds": b.opts.rounds, "pulls": b.opts.pulls,
	}
	for _, r := range b.runtimes {
		head[r.name] = r.version(ctx)
	}
	return head
}

func cpus() int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0
	}
	return set.Count()
}

// load is the one-minute load average: how busy others kept the machine.
func load() string {
	data, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(data), " ")
	return first
}

func (b *bench) print(head map[string]any) error {
	all := b.report.records()
	if err := writeJSON(os.Stdout, head, all); err != nil {
		return err
	}
	if b.opts.json != "" {
		if err := saveJSON(b.opts.json, head, all); err != nil {
			return err
		}
	}
	fmt.Println()
	return table(os.Stdout, all)
}

// close removes every pod, tells what the runtimes left, and ends what runs.
// It gets no context: it must work after Ctrl-C.
func (b *bench) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), innerGrace/2)
	defer cancel()
	var errs []error
	for _, r := range b.runtimes {
		errs = append(errs, b.closeRuntime(ctx, r))
	}
	if b.registry != nil {
		errs = append(errs, b.registry.close())
	}
	return errors.Join(errs...)
}

func (b *bench) closeRuntime(ctx context.Context, r *runtimeUnderTest) error {
	var errs []error
	if r.alive() {
		errs = append(errs, r.emptyOut(ctx))
		r.printLeftovers(ctx)
	}
	errs = append(errs, r.stop(), r.keepLog(b.opts.logs))
	return errors.Join(errs...)
}

// keepLog copies the daemon's log out of the tmpfs, into dir unless that is "".
func (r *runtimeUnderTest) keepLog(dir string) error {
	if dir == "" {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(r.dir, "log"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, filepath.Base(r.dir)+".log"), data, 0o644)
}

// output runs a command and gives what it printed.
func (c *children) output(cmd *exec.Cmd) (string, error) {
	var out strings.Builder
	cmd.Stdout = &out
	err := c.run(cmd)
	return out.String(), err
}
