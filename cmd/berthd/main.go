package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"

	"k8s.io/klog/v2"

	"berth/server"
	"berth/server/config"
)

// version is set by the linker.
var version = "dev"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "berthd:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	fs := flag.NewFlagSet("berthd", flag.ContinueOnError)
	file := fs.String("config", config.DefaultFile, "configuration, TOML; the default one may be absent")
	printConfig := fs.Bool("print-config", false, "print the configuration in effect and exit")
	printVersion := fs.Bool("version", false, "print the version and exit")
	override := config.Flags(fs)
	fs.SetOutput(io.Discard)
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		fs.SetOutput(os.Stdout)
		fs.PrintDefaults()
		return nil
	} else if err != nil {
		return fmt.Errorf("%w%s; berthd --help lists the flags", err, config.FlagAdvice(args))
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: options start with --", fs.Arg(0))
	}
	if *printVersion {
		fmt.Println("berthd", version)
		return nil
	}
	read := func() (config.Config, error) {
		cfg, err := config.Load(*file)
		if err != nil {
			return cfg, err
		}
		override(&cfg)
		return cfg, cfg.Check()
	}
	cfg, err := read()
	if err != nil {
		return err
	}
	if *printConfig {
		return cfg.Print(os.Stdout)
	}
	ctx, err := withLogger(cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return err
	}
	defer klog.Flush()
	return server.Run(ctx, server.Start{Config: cfg, Read: read, Version: version})
}

// withLogger sets klog up, to standard error, and puts its logger in a context.
func withLogger(level int, format string) (context.Context, error) {
	fs := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(fs)
	err := fs.Set("logtostderr", "true")
	server.SetVerbosity(level)
	if format == "json" {
		// A logger of slog decides by itself what is logged, klog's verbosity is not asked.
		klog.SetSlogLogger(slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: server.Verbosity()})))
	}
	return klog.NewContext(context.Background(), klog.Background()), err
}
