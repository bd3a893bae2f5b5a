package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"time"
)

// spec is what is used of an entry of ginkgo's JSON report.
type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeText            string
	LeafNodeType            string
	State                   string // passed, failed, panicked, timedout, interrupted, skipped, pending
	RunTime                 time.Duration
	Failure                 struct{ Message string }
}

func (s spec) name() string {
	return strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " ")
}

type counts struct{ passed, failed, skipped int }

// readReport reads ginkgo's report; specs that a filter left out are not counted.
func readReport(file string) ([]spec, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var suites []struct{ SpecReports []spec }
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var out []spec
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			filtered := s.State == "skipped" && s.Failure.Message == ""
			if s.LeafNodeType == "It" && !filtered || s.State == "failed" {
				out = append(out, s)
			}
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].name() < out[j].name() })
	return out, nil
}

// tell prints the skipped and failed specs with their reasons, then the counts.
func tell(w io.Writer, specs []spec) counts {
	var c counts
	for _, s := range specs {
		switch s.State {
		case "passed":
			c.passed++
		case "skipped", "pending":
			c.skipped++
			fmt.Fprintf(w, "SKIP %s: %s\n", s.name(), firstLine(s.Failure.Message))
		}
	}
	for _, s := range specs {
		if s.State != "passed" && s.State != "skipped" && s.State != "pending" {
			c.failed++
			fmt.Fprintf(w, "FAIL %s (%.1f s): %s\n", s.name(), s.RunTime.Seconds(), indent(s.Failure.Message))
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
