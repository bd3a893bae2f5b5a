package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	for line, want := range map[string]struct{ name, rest string }{
		"version":                {"version", ""},
		"image load x.tar":       {"image load", "x.tar"},
		"image export x a b":     {"image export", "x a b"},
		"image check --repair":   {"image check", "--repair"},
		"check":                  {"check", ""},
		"check --store":          {"check --store", ""},
		"check --store --repair": {"check --store", "--repair"},
		"image":                  {},
		"images":                 {},
		"":                       {},
	} {
		cmd, rest, err := find(strings.Fields(line))
		if want.name == "" {
			if !errors.Is(err, errUsage) {
				t.Errorf("%q: got %v, want a usage error", line, err)
			}
			continue
		}
		if err != nil || cmd.name != want.name || strings.Join(rest, " ") != want.rest {
			t.Errorf("%q: got %q %q %v", line, cmd.name, rest, err)
		}
	}
}

func TestWrongArgumentsAreUsage(t *testing.T) {
	for name, args := range map[string][]string{
		"explain": {"--json"}, "audit": {"x"}, "check": {"x"}, "image list": {"x"}, "image pull": {}, "image load": {"x", "y"},
		"image export": {"x"}, "image check": {"--fix"}, "check --store": {"--fix"},
	} {
		cmd, _, err := find(strings.Fields(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.run(t.Context(), environment{}, args); !errors.Is(err, errUsage) {
			t.Errorf("%s %q: got %v, want a usage error", name, args, err)
		}
	}
}

// A question about a pod of another daemon is answered with the directory that was searched.
func TestExplainNamesWhatItSearched(t *testing.T) {
	root := t.TempDir()
	err := run(t.Context(), []string{"--config", os.DevNull, "--root", root, "--state", root, "explain", "none"})
	if err == nil || !strings.Contains(err.Error(), root) || !strings.Contains(err.Error(), "--root") {
		t.Errorf("got %v, want the root %s and the flag named", err, root)
	}
}

func TestUnreachableDaemon(t *testing.T) {
	err := run(context.Background(), []string{"--config", os.DevNull, "--address", "unix://" + t.TempDir() + "/none", "image", "list"})
	if err == nil || strings.Contains(plain(err), "rpc error") {
		t.Errorf("got %v", err)
	}
}

func TestWriteWholeLeavesNoHalf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.tar")
	write := func(text string, err error) func(io.Writer) error {
		return func(w io.Writer) error {
			_, werr := io.WriteString(w, text)
			return errors.Join(werr, err)
		}
	}
	if err := writeWhole(file, write("first", nil)); err != nil {
		t.Fatal(err)
	}
	if err := writeWhole(file, write("sec", errors.New("cut"))); err == nil {
		t.Error("the failure got lost")
	}
	text, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(text, []byte("first")) {
		t.Errorf("%q, %v", text, err)
	}
	if left, _ := filepath.Glob(file + "*"); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}
