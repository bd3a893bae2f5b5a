package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"berth/test/registry"
)

const (
	suiteModule  = "sigs.k8s.io/cri-tools"
	suiteVersion = "v1.37.0"
	tool         = "test/critest/tool"
)

// digestInSource is the one reference of critest that can't be served, see doc.go.
var digestInSource = regexp.MustCompile(`("test-image-digest@)sha256:[0-9a-f]{64}"`)

// build makes bin/critest from a copy of its module in which our digest is
// written; go's -overlay refuses files of the module cache.
func build(ctx context.Context, bin string) (string, error) {
	module, err := goOutput(ctx, "list", "-m", "-f", "{{.Dir}}", suiteModule)
	if err != nil {
		return "", err
	}
	source := filepath.Join(bin, "critest-"+suiteVersion)
	if err := copyModule(source, module); err != nil {
		return "", err
	}
	if err := writeDigest(filepath.Join(source, "pkg", "validate", "consts.go"), filepath.Join(module, "pkg", "validate", "consts.go")); err != nil {
		return "", err
	}
	modfile, err := writeModfile(bin, source)
	if err != nil {
		return "", err
	}
	out := filepath.Join(bin, "critest")
	_, err = goOutput(ctx, "test", "-c", "-buildvcs=false", "-modfile", modfile, "-o", out,
		"-ldflags", "-s -w -X "+suiteModule+"/pkg/version.Version="+suiteVersion, suiteModule+"/cmd/critest")
	return out, err
}

// copyModule copies a module once; a copy that was broken off is not there.
func copyModule(to, from string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	half := to + ".half"
	if err := os.RemoveAll(half); err != nil {
		return err
	}
	if err := os.CopyFS(half, os.DirFS(from)); err != nil {
		return fmt.Errorf("copy critest's source: %w", err)
	}
	return os.Rename(half, to)
}

// writeDigest writes the source file with the digest of our image, and leaves
// a file that has it already alone, for the sake of go's build cache.
func writeDigest(to, from string) error {
	img, err := registry.Fixed()
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	changed := digestInSource.ReplaceAll(data, []byte(`${1}`+digest.String()+`"`))
	if bytes.Equal(changed, data) {
		return fmt.Errorf("%s: no digest to replace: has critest changed?", from)
	}
	if have, err := os.ReadFile(to); err == nil && bytes.Equal(have, changed) {
		return nil
	}
	return os.WriteFile(to, changed, 0o644)
}

// writeModfile writes the tool module's go.mod and go.sum with the copy in
// place of the released module.
func writeModfile(bin, source string) (string, error) {
	mod, err := os.ReadFile(filepath.Join(tool, "go.mod"))
	if err != nil {
		return "", err
	}
	sum, err := os.ReadFile(filepath.Join(tool, "go.sum"))
	if err != nil {
		return "", err
	}
	file := filepath.Join(bin, "critest.mod")
	mod = append(mod, fmt.Sprintf("\nreplace %s => %s\n", suiteModule, source)...)
	if err := os.WriteFile(file, mod, 0o644); err != nil {
		return "", err
	}
	return file, os.WriteFile(filepath.Join(bin, "critest.sum"), sum, 0o644)
}

func copyProgram(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

func goOutput(ctx context.Context, args ...string) (string, error) {
	c := exec.CommandContext(ctx, "go", args...)
	c.Dir, c.Stderr = tool, os.Stderr
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w", args[0], err)
	}
	return string(bytes.TrimSpace(out)), nil
}
