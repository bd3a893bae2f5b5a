package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"berth/oci/shim"
	"berth/oci/shim/shimv2"
	"berth/oci/shimapi"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "info" {
		describe()
		return
	}
	shim.Main(func(dir string, debug bool, oom func(container string)) (shim.Foreign, error) {
		return shimv2.New(dir, debug, oom)
	})
}

// describe is ended by SIGTERM with all that it has started.
func describe() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	err := shimv2.Describe(ctx, os.Stdin, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	switch {
	case errors.Is(err, shimv2.ErrOptions):
		os.Exit(shimapi.ExitOptions)
	case err != nil:
		os.Exit(1)
	}
}
