package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Outcomes of a test.
const (
	passed  = "passed"
	failed  = "failed"
	skipped = "skipped"
)

// result is what came of one test, or of a suite as a whole (then test is empty).
type result struct {
	Suite   string  `json:"suite"`
	Test    string  `json:"test"`
	Outcome string  `json:"outcome"`
	Seconds float64 `json:"seconds"`
	Message string  `json:"message,omitempty"` // why it failed or was skipped
}

// results are those of a run.
type results struct {
	Accelerator string   `json:"accelerator"` // kvm or tcg,thread=multi
	Seconds     float64  `json:"seconds"`     // from the start of QEMU to its end
	Broken      string   `json:"broken,omitempty"`
	Results     []result `json:"results"`
}

// report writes the results to a file, and to w how many there are of each outcome and
// what failed. The error says that the run does not pass.
func (r *results) report(w io.Writer, file string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(data, '\n'), 0o644); err != nil {
		return err
	}
	count, ended := map[string]map[string]int{}, 0
	var order []string
	for _, one := range r.Results {
		if count[one.Suite] == nil {
			count[one.Suite], order = map[string]int{}, append(order, one.Suite)
		}
		if one.Test == "" && one.Outcome == passed {
			ended++
			continue
		}
		count[one.Suite][one.Outcome]++
		if one.Outcome == failed {
			fmt.Fprintf(w, "FAILED %s %s: %s\n", one.Suite, one.Test, one.Message)
		}
	}
	failures := 0
	for _, s := range order {
		fmt.Fprintf(w, "%s: %d passed, %d failed, %d skipped\n", s, count[s][passed], count[s][failed], count[s][skipped])
		failures += count[s][failed]
	}
	fmt.Fprintf(w, "in %.0f s with %s; see %s\n", r.Seconds, r.Accelerator, file)
	switch {
	case r.Broken != "":
		return errors.New(r.Broken)
	case failures > 0:
		return fmt.Errorf("%d tests failed", failures)
	case ended == 0:
		return errors.New("no suite came to its end; see console.log")
	}
	return nil
}

// clip makes a message fit into a line.
func clip(text string) string {
	const most = 200
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > most {
		return string(r[:most]) + "…"
	}
	return text
}
