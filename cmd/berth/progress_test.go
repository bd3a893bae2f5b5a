package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestProgressOffATerminalIsPlainLines(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := newProgress(f)
	for _, s := range []string{"resolve a:1", "layer 1 of 2: 0% of 1.0 MiB", "layer 2 of 2: 0% of 1.0 MiB", "layer 1 of 2: 0% of 1.0 MiB", "done a:1"} {
		p.line(s)
	}
	p.count("archive", 10)(10)
	got, err := os.ReadFile(f.Name())
	want := "resolve a:1\nlayer 1 of 2: 0% of 1.0 MiB\nlayer 2 of 2: 0% of 1.0 MiB\ndone a:1\n"
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestProgressOnATerminalKeepsARowPerLayer(t *testing.T) {
	var out strings.Builder
	p := &progress{out: &out, rows: 3, cols: 60, state: map[string]string{}}
	for _, s := range []string{"a: 0% of 8", "b: 0% of 8", "a: 50% of 8", "c: 0% of 8", "b: 100% of 8", "a: 100% of 8", "done"} {
		p.line(s)
	}
	bar := func(what, state string, full int) string {
		return what + strings.Repeat(" ", 16) + "[" + strings.Repeat("=", full) + strings.Repeat(" ", 30-full) + "] " + state
	}
	want := bar("a", "0% of 8", 0) + "\n" + bar("b", "0% of 8", 0) + "\n" +
		"\x1b[2A\r\x1b[K" + bar("a", "50% of 8", 15) + "\x1b[2B\r" +
		bar("c", "0% of 8", 0) + "\n" +
		"\x1b[2A\r\x1b[K" + bar("b", "100% of 8", 30) + "\x1b[2B\r" +
		"done\n" // a has scrolled away
	if got := out.String(); got != want {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
	if got := row(strings.Repeat("x", 100), "", 60); len(got) != 59 {
		t.Errorf("a row of %d characters wraps", len(got))
	}
}
