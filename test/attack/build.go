package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"berth/test/program"
	"berth/test/registry"
)

const tags = "seccomp,runc_nocriu"

func goCommand(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "go", args...)
	c.Stderr = os.Stderr
	return c
}

// compile puts the test binaries of the packages that match, and their descriptions, into dir.
func compile(ctx context.Context, dir string, in *regexp.Regexp) error {
	suites, err := find(ctx)
	if err != nil {
		return err
	}
	suites = slices.DeleteFunc(suites, func(s suite) bool { return !in.MatchString(s.Package) })
	for _, s := range suites {
		file := filepath.Join(dir, s.Package, binaryName)
		if err := goCommand(ctx, "test", "-c", "-buildvcs=false", "-tags", tags, "-o", file, "./"+s.Package).Run(); err != nil {
			return fmt.Errorf("compile the tests of %s: %w", s.Package, err)
		}
	}
	data, err := json.MarshalIndent(suites, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, suitesFile), data, 0o644)
}

// find asks the Go command for packages, and their sources for attacks.
func find(ctx context.Context) (suites []suite, err error) {
	out, err := goCommand(ctx, "list", "-tags", tags, "-json=Dir,ImportPath,TestGoFiles,XTestGoFiles", "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Dir, ImportPath           string
			TestGoFiles, XTestGoFiles []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return suites, nil
		} else if err != nil {
			return nil, err
		}
		s := suite{Package: strings.TrimPrefix(p.ImportPath, "berth/"), Tests: map[string]string{}}
		for _, f := range append(p.TestGoFiles, p.XTestGoFiles...) {
			if err := s.describe(filepath.Join(p.Dir, f)); err != nil {
				return nil, err
			}
		}
		if len(s.Tests) > 0 {
			suites = append(suites, s)
		}
	}
}

// pack is compile with all else that the tests and this program need.
func pack(ctx context.Context, dir string, in *regexp.Regexp) error {
	// Building the images once leaves in bin/ what needs the network.
	if _, err := registry.Critest(); err != nil {
		return err
	}
	if err := compile(ctx, dir, in); err != nil {
		return err
	}
	suites, err := load(dir)
	if err != nil {
		return err
	}
	for _, s := range suites {
		if err := copyTree(filepath.Join(s.Package, "testdata"), filepath.Join(dir, s.Package, "testdata")); err != nil {
			return err
		}
	}
	for _, p := range program.All() {
		file := filepath.Join(dir, programsDir, p)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), program.Build(p, file)); err != nil {
			return err
		}
	}
	for _, d := range []string{"bin", "hack"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	for _, part := range []string{"go.mod", "bin/berthd", "bin/berth", "bin/berth-shim", "bin/berth-shim-v2", "bin/cni", "bin/test-cache", "hack/berthd.service"} {
		if err := copyTree(part, filepath.Join(dir, part)); err != nil {
			return err
		}
	}
	c := goCommand(ctx, "build", "-buildvcs=false", "-trimpath", "-o", filepath.Join(dir, "attack"), "./test/attack")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	return c.Run()
}

// copyTree copies with cp, which keeps modes and symbolic links; what is not
// there needs no copy.
func copyTree(from, to string) error {
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("cp %s: %w: %s", from, err, out)
	}
	return nil
}
