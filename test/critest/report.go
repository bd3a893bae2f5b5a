package main

import (
	"fmt"
	"io"
	"strings"

	"berth/test/testlog"
)

type counts struct{ passed, failed, skipped int }

// tell prints the skipped and failed specs with their reasons, then the counts.
func tell(w io.Writer, specs []testlog.Spec) counts {
	var c counts
	for _, s := range specs {
		switch s.State {
		case "passed":
			c.passed++
		case "skipped", "pending":
			c.skipped++
			fmt.Fprintf(w, "SKIP %s: %s\n", s.Name(), firstLine(s.Failure.Message))
		}
	}
	for _, s := range specs {
		if s.State != "passed" && s.State != "skipped" && s.State != "pending" {
			c.failed++
			fmt.Fprintf(w, "FAIL %s (%.1f s): %s\n", s.Name(), s.RunTime.Seconds(), indent(s.Failure.Message))
		}
	}
	fmt.Fprintf(w, "critest %s: %d passed, %d failed, %d skipped\n", suiteVersion, c.passed, c.failed, c.skipped)
	return c
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func indent(s string) string {
	return strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n     ")
}
