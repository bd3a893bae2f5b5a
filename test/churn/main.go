package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	n       int // pulls and removals, over all clients
	clients int
	rounds  int           // parts of the run; all is verified after each
	every   time.Duration // between two kills, on average
	timeout time.Duration
	seed    uint64
	berthd  string // absolute; berth-shim is beside it
}

func main() { os.Exit(run(os.Args[1:])) }

// run is main with an exit code: 0 all is well, 1 it is not, 2 bad usage.
func run(args []string) int {
	opts, err := parseOptions(args)
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "churn:", err)
		}
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fmt.Printf("churn: -seed %d: %d pulls and removals by %d clients, a kill every %v or so\n", opts.seed, opts.n, opts.clients, opts.every)
	c, err := churn(ctx, opts)
	if c != nil {
		fmt.Print(c.report())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "churn:", err)
		return 1
	}
	return 0
}

func parseOptions(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("churn", flag.ContinueOnError)
	fs.IntVar(&o.n, "n", 10_000, "pulls and removals, over all clients")
	fs.IntVar(&o.clients, "clients", 8, "clients at work at the same time")
	fs.IntVar(&o.rounds, "rounds", 10, "parts of the run; everything is verified after each")
	fs.DurationVar(&o.every, "every", 2*time.Second, "time between two kills, on average")
	fs.DurationVar(&o.timeout, "timeout", 15*time.Minute, "give up after this time")
	fs.Uint64Var(&o.seed, "seed", 0, "of all that is random; 0: a new one")
	fs.StringVar(&o.berthd, "berthd", "bin/berthd", "berthd; berth-shim is expected beside it")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if min(o.n, o.clients, o.rounds) < 1 || o.every <= 0 {
		return o, errors.New("-n, -clients, -rounds and -every must be more than 0")
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}
	var err error
	o.berthd, err = filepath.Abs(o.berthd)
	return o, err
}
