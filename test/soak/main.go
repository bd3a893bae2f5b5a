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
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	phases  []string
	clients int
	pods    int // at the same time, over all clients
	rounds  int
	length  time.Duration // of each of steady and kills
	every   time.Duration // between two kills, on average
	both    int           // one kill in so many is of berthd and the shim at once; 0: none
	probed  int           // pods of probes
	kills   int           // of each program in probes
	lives   int           // pods that come and go in lives
	seed    uint64
	bin     string // absolute; has berthd and berth-shim
	race    string // absolute or ""; has those built with -race
}

var allPhases = []string{"steady", "kills", "probes", "lives"}

func main() { os.Exit(run(os.Args[1:])) }

// run is main with an exit code: 0 all is well, 1 it is not, 2 bad usage.
func run(args []string) int {
	opts, err := parseOptions(args)
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "soak:", err)
		}
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := soak(ctx, opts, func(line string) { fmt.Println(line) }); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		return 1
	}
	return 0
}

func parseOptions(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("soak", flag.ContinueOnError)
	phases := fs.String("phases", strings.Join(allPhases, ","), "which to run, in this order")
	fs.IntVar(&o.clients, "clients", 16, "clients at work at the same time")
	fs.IntVar(&o.pods, "pods", 200, "pods at the same time, at most")
	fs.IntVar(&o.rounds, "rounds", 6, "parts of steady, kills and lives; growth is measured after each")
	fs.DurationVar(&o.length, "for", 10*time.Minute, "how long steady and kills take, each")
	fs.DurationVar(&o.every, "every", 2*time.Second, "time between two kills, on average")
	fs.IntVar(&o.both, "both", 20, "one kill in so many is of berthd and the shim at once; 0: none")
	fs.IntVar(&o.probed, "probed", 50, "pods that probes executes in")
	fs.IntVar(&o.kills, "kills", 100, "kills of each program in probes")
	fs.IntVar(&o.lives, "lives", 10_000, "pods that come and go in lives")
	fs.Uint64Var(&o.seed, "seed", 0, "of all that is random; 0: a new one")
	fs.StringVar(&o.bin, "bin", "bin", "directory with berthd and berth-shim")
	fs.StringVar(&o.race, "race", "", "directory with both built with -race, for kills")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	o.phases = strings.Split(*phases, ",")
	if err := o.check(); err != nil {
		return o, err
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}
	var err error
	for _, dir := range []*string{&o.bin, &o.race} {
		if *dir != "" && err == nil {
			*dir, err = filepath.Abs(*dir)
		}
	}
	return o, err
}

// check refuses what no run can be made of.
func (o options) check() error {
	for _, p := range o.phases {
		if !slices.Contains(allPhases, p) {
			return fmt.Errorf("no phase %q, there are %s", p, strings.Join(allPhases, ", "))
		}
	}
	if min(o.clients, o.rounds, o.probed, o.kills) < 1 || o.pods < o.clients || o.pods > 240 || o.every <= 0 {
		return errors.New("-clients, -rounds, -probed, -kills and -every must be more than 0, -pods from -clients to 240, which is what the subnet has room for")
	}
	if o.lives < o.rounds {
		return errors.New("-lives must be at least -rounds, so that some are in each")
	}
	return nil
}
