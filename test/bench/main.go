package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// options are the command line. Both processes parse the same one.
type options struct {
	mode          string // "pods" or "pull"
	n             int    // pods brought up one after another, per runtime; 3n execs
	rounds, batch int    // parallel measure: rounds of batch pods
	parallel      int
	pods          int // pods alive while memory and idle CPU are read
	many          int // pods of the measures growth, stats and restart
	pulls         int
	output        int // MiB that a container writes in the measures logs and streams
	idle          time.Duration
	quick         bool
	masq          bool
	only          *regexp.Regexp
	runtimes      []string
	json          string
	berthd        string
	before        string // berthd of another build, to compare with in containerd's place
	containerd    string
	cniBin        string
	streams       string // the program test/streams/client
	logs          string
}

func main() { os.Exit(run(os.Args[1:])) }

// run is main with an exit code: 0 measured, 1 a call failed, 2 bad usage.
func run(args []string) int {
	opts, err := parseOptions(args)
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Getenv(innerEnv) == "" {
		return supervise(ctx)
	}
	if err := inner(ctx, opts); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

// parseOptions reads the command line; an optional first word is the mode.
func parseOptions(args []string) (options, error) {
	opts := options{mode: "pods"}
	if len(args) > 0 && args[0] == "pull" {
		opts.mode, args = "pull", args[1:]
	}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.IntVar(&opts.n, "n", 30, "pods brought up one after another, per runtime; execs are three times that")
	fs.IntVar(&opts.rounds, "rounds", 4, "rounds of the parallel measure")
	fs.IntVar(&opts.batch, "batch", 24, "pods of one parallel round")
	fs.IntVar(&opts.parallel, "parallel", 8, "pods at a time in the parallel measure")
	fs.IntVar(&opts.pods, "pods", 50, "pods alive while memory and idle CPU are read")
	fs.IntVar(&opts.many, "many", 500, "pods alive at the end of growth, and while statistics and restarts are timed")
	fs.IntVar(&opts.pulls, "pulls", 5, "pulls of each image, per runtime")
	fs.IntVar(&opts.output, "output", 512, "MiB that a container writes to its log, an exec and a forwarded port")
	fs.DurationVar(&opts.idle, "idle", 10*time.Second, "how long idle CPU is watched")
	fs.BoolVar(&opts.quick, "quick", false, "few samples: shows that everything works, not how fast")
	fs.BoolVar(&opts.masq, "masq", false, "ipMasq in the bridge's configuration (adds several iptables runs a pod)")
	fs.StringVar(&opts.json, "json", "", "also write JSON lines to this file")
	fs.StringVar(&opts.berthd, "berthd", "bin/berthd", "berthd; berth-shim is expected beside it")
	fs.StringVar(&opts.before, "before", "", "compare with this berthd, of another build, and not with containerd")
	fs.StringVar(&opts.containerd, "containerd", "bin/peers/containerd", "containerd, 1.6 or newer; its shim and runc are looked for beside it first")
	fs.StringVar(&opts.cniBin, "cni-bin", "", "CNI plugins (default: bin/cni, /opt/cni/bin or /usr/lib/cni)")
	fs.StringVar(&opts.streams, "streams", "bin/streams-client", "the client of exec and port-forward, which make bench builds")
	fs.StringVar(&opts.logs, "logs", "", "keep the daemons' logs in this directory")
	only := fs.String("only", "", "measures whose name matches this expression (podup, exec, parallel, growth, stats, restart, logs, streams, memory, pull, floor …)")
	berthOnly := fs.Bool("berth-only", false, "do not run containerd")
	containerdOnly := fs.Bool("containerd-only", false, "do not run berthd")
	if err := fs.Parse(args); err != nil {
		return opts, err
	}
	if fs.NArg() > 0 {
		return opts, fmt.Errorf("unexpected argument %q; the only mode is \"pull\", and it comes first", fs.Arg(0))
	}
	return opts.resolve(*only, *berthOnly, *containerdOnly)
}

// resolve checks what was given and fills in what follows from it.
func (o options) resolve(only string, berthOnly, containerdOnly bool) (options, error) {
	var err error
	if o.only, err = regexp.Compile(only); err != nil {
		return o, fmt.Errorf("-only: %w", err)
	}
	if o.runtimes, err = chooseRuntimes(berthOnly, containerdOnly); err != nil {
		return o, err
	}
	if o.quick {
		o.n, o.rounds, o.batch, o.pods, o.many, o.pulls, o.output, o.idle = 3, 1, 8, 8, fewPods, 1, 16, 2*time.Second
	}
	if min(o.n, o.rounds, o.batch, o.parallel, o.pods, o.pulls, o.output) < 1 {
		return o, errors.New("-n, -rounds, -batch, -parallel, -pods, -pulls and -output must be at least 1")
	}
	if o.many < fewPods {
		return o, fmt.Errorf("-many must be at least %d", fewPods)
	}
	if o.before != "" {
		o.runtimes = []string{nameBerth, nameBefore}
	}
	for _, p := range []*string{&o.berthd, &o.before, &o.containerd, &o.json, &o.logs, &o.cniBin, &o.streams} {
		if *p == "" {
			continue
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return o, err
		}
	}
	return o, nil
}

func chooseRuntimes(berthOnly, containerdOnly bool) ([]string, error) {
	switch {
	case berthOnly && containerdOnly:
		return nil, errors.New("-berth-only and -containerd-only exclude each other")
	case berthOnly:
		return []string{nameBerth}, nil
	case containerdOnly:
		return []string{nameContainerd}, nil
	}
	return []string{nameBerth, nameContainerd}, nil
}
