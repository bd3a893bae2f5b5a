package main

import (
	"context"
	"fmt"
	"os"

	"berth/oci/shim"
	"berth/oci/shim/shimv2"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "info" {
		if err := shimv2.Describe(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	shim.Main(func(dir string, debug bool, oom func(container string)) (shim.Foreign, error) {
		return shimv2.New(dir, debug, oom)
	})
}
