package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"berth/test/program"
	"berth/test/testlog"
)

// run runs the suite's test binary, which is below root, in the package's
// directory below at.
func (s *suite) run(ctx context.Context, root, at string, o options) ([]result, error) {
	binary, err := filepath.Abs(filepath.Join(root, s.Package, binaryName))
	if err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Keys(s.Tests))
	c := exec.CommandContext(ctx, binary, "-test.v=test2json", "-test.timeout="+o.timeout.String(), "-test.run=^("+strings.Join(names, "|")+")$")
	c.Dir = filepath.Join(at, s.Package)
	c.Env = os.Environ()
	if programs := filepath.Join(root, programsDir); exists(programs) {
		if programs, err = filepath.Abs(programs); err != nil {
			return nil, err
		}
		c.Env = append(c.Env, program.BuiltEnv+"="+programs)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.Stderr = c.Stdout
	if err := c.Start(); err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "attack: %s: %d test functions\n", s.Package, len(names))
	r := testlog.NewReader()
	echo := io.Discard
	if o.verbose {
		echo = os.Stderr
	}
	read := r.Read(io.TeeReader(bufio.NewReaderSize(out, 1<<20), echo))
	var exit *exec.ExitError
	if err := c.Wait(); err != nil && !errors.As(err, &exit) {
		return nil, err
	}
	if err := errors.Join(read, ctx.Err()); err != nil {
		return nil, err
	}
	return s.results(r, c.ProcessState.ExitCode()), nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
