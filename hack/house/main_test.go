package main

import (
	"regexp"
	"strings"
	"testing"
)

// TestTree measures the small module in testdata/tree, whose figures can be
// counted by hand.
func TestTree(t *testing.T) {
	var out strings.Builder
	if err := run(&out, "testdata/tree", "", 12); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"with more than 5 parameters":                   "1: cri.tooMany",
		"doc comments that only restate the name":       "1: cri.flights.do",
		"longer than 60 / 100 lines":                    "0 / 0",
		"interfaces":                                    "0",
		"configuration keys":                            "2",
		"CRI fields judged in more than one package":    "1 of 2",
		"by functions":                                  "PodSandboxConfig.Hostname 2",
		"RunPodSandbox to the clone of pause":           "9",
		"PullImage to the first HTTP request":           "not found: leg 1 of 1, 0 places to start",
		"sandbox":                                       "0.29",
		"test : code, lines (lines with code)":          "0.07 (0.06)",
		"functions; lines median / p90 / max":           "17; 1 / 9 / 9",
		"cyclomatic median / p90 / max":                 "1 / 3 / 3",
		"exported identifiers, per 1,000 lines of code": "",
	} {
		line := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` +(.*)$`).FindStringSubmatch(out.String())
		if line == nil {
			t.Errorf("no line %q is printed", name)
		} else if want != "" && line[1] != want {
			t.Errorf("%s: got %q, want %q", name, line[1], want)
		}
	}
	ways := []string{
		"cri Unary → cri service.RunPodSandbox → cri flights.do → sandbox Manager.RunPod → client Shim.RunPod → client Shim.ask → shimapi WriteFrame",
		"shim server.serve → shim server.runPod",
	}
	for _, want := range ways {
		if !strings.Contains(out.String(), want+"\n") {
			t.Errorf("the way %q is not printed", want)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
}

func TestRestates(t *testing.T) {
	for name, want := range map[string][]string{
		"readLogFile": {"read", "log", "file"},
		"HTTPServer":  {"httpserver"},
		"ID":          {"id"},
	} {
		if got := words(name); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("words(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestSizeOf(t *testing.T) {
	text := "// Package p is one.\npackage p\n\nvar a = 1 // both\n\nvar s = `x\ny`\n"
	want := size{lines: 7, code: 4, comments: 2}
	if got := sizeOf([]byte(text)); got != want {
		t.Errorf("sizeOf: got %+v, want %+v", got, want)
	}
}
