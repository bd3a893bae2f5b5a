package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	root := flag.String("root", ".", "folder of the module to measure")
	tags := flag.String("tags", "", "build tags, separated by commas")
	detail := flag.Int("detail", 12, "how many entries a list shows")
	flag.Parse()
	if err := run(os.Stdout, *root, *tags, *detail); err != nil {
		fmt.Fprintln(os.Stderr, "house:", err)
		os.Exit(1)
	}
}

// run measures the module at root and writes the report.
func run(out io.Writer, root, tags string, detail int) error {
	m, err := load(root, tags)
	if err != nil {
		return err
	}
	r := &report{out: out, detail: detail}
	sizes(r, m)
	functions(r, m)
	declarations(r, m)
	rules(r, m)
	depths(r, m)
	return r.err
}
