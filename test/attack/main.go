package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	build, run string
	only, in   *regexp.Regexp
	timeout    time.Duration
	verbose    bool
}

func main() {
	o := options{only: regexp.MustCompile(""), in: regexp.MustCompile("")}
	flag.StringVar(&o.build, "build", "", "make `DIR` all that is needed to run the attacks on another machine, and run none")
	flag.StringVar(&o.run, "run", "", "run what -build made of `DIR`")
	flag.DurationVar(&o.timeout, "timeout", 20*time.Minute, "how `long` one package's tests may take")
	flag.BoolVar(&o.verbose, "v", false, "print what the tests print")
	flag.Func("only", "run the test functions whose names match this regular `expression`", func(s string) (err error) {
		o.only, err = regexp.Compile(s)
		return err
	})
	flag.Func("in", "leave out the packages whose paths do not match this regular `expression`", func(s string) (err error) {
		o.in, err = regexp.Compile(s)
		return err
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := attack(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		os.Exit(1)
	}
}

func attack(ctx context.Context, o options) (err error) {
	if o.build != "" {
		return pack(ctx, o.build, o.in)
	}
	root := o.run
	if root == "" {
		if root, err = os.MkdirTemp("", "berth-attack-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
		if err := compile(ctx, root, o.in); err != nil {
			return err
		}
	}
	suites, err := load(root)
	if err != nil {
		return err
	}
	at := "." // the sources' root, where the tests find what they read
	if o.run != "" {
		at = root
	}
	var all []result
	for _, s := range suites {
		if s.keep(o.only); len(s.Tests) == 0 {
			continue
		}
		results, err := s.run(ctx, root, at, o)
		if err != nil {
			return err
		}
		all = append(all, results...)
	}
	return report(os.Stdout, all)
}
