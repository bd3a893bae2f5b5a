package testlog

import (
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"
)

// Spec is what is used of an entry of ginkgo's JSON report.
type Spec struct {
	ContainerHierarchyTexts []string
	LeafNodeText            string
	LeafNodeType            string
	State                   string // passed, failed, panicked, timedout, interrupted, skipped, pending
	RunTime                 time.Duration
	Failure                 struct{ Message string }
}

// Name is the texts of the containers and of the spec.
func (s Spec) Name() string {
	return strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " ")
}

// ReadGinkgo reads ginkgo's report; specs that a filter left out are not counted.
func ReadGinkgo(file string) ([]Spec, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var suites []struct{ SpecReports []Spec }
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var out []Spec
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			filtered := s.State == "skipped" && s.Failure.Message == ""
			if s.LeafNodeType == "It" && !filtered || s.State == "failed" {
				out = append(out, s)
			}
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name() < out[j].Name() })
	return out, nil
}
