package crash

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
)

// outcome is what a call had done when it was cut short, as its judge found it.
type outcome string

const (
	undone outcome = "undone" // nothing of it is left
	done   outcome = "done"   // all of it, though nobody was answered
	ended  outcome = "ended"  // what ran for the call ended with it
	held   outcome = "held"   // the container runs on, and is listened to
	lost   outcome = "lost"   // the container is known to have ended, with nobody left who knew its code
	failed outcome = "failed" // anything else: the test tells
)

var outcomesInOrder = []outcome{undone, done, ended, held, lost, failed}

func doneIf(so bool) outcome {
	if so {
		return done
	}
	return undone
}

// points counts, for all tests, where something was killed and what came of it.
var points pointTable

// pointTable has a row for each victim and verb.
type pointTable struct {
	mu   sync.Mutex
	rows map[string]map[outcome]int
}

// note counts a point once its test has ended. step is where the victim was killed; ""
// is that the verb had no such step, so that nothing was.
func (p *pointTable) note(t *testing.T, victim, verb, step string, came outcome) {
	t.Helper()
	if step == "" {
		return
	}
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.rows == nil {
			p.rows = map[string]map[outcome]int{}
		}
		name := fmt.Sprintf("%-8s %s", victim, verb)
		if p.rows[name] == nil {
			p.rows[name] = map[outcome]int{}
		}
		if t.Failed() {
			came = failed
		}
		p.rows[name][came]++
	})
}

// String is the table with its sums; "" when nothing was killed at a step.
func (p *pointTable) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rows) == 0 {
		return ""
	}
	var b strings.Builder
	row := func(name string, cells ...any) {
		fmt.Fprintf(&b, "  %-32s", name)
		for _, c := range cells {
			fmt.Fprintf(&b, " %6v", c)
		}
		b.WriteByte('\n')
	}
	header, sums := []any{"points"}, map[outcome]int{}
	for _, o := range outcomesInOrder {
		header = append(header, o)
	}
	b.WriteString("killed at each step:\n")
	row("who      verb", header...)
	sum := func(counts map[outcome]int) (cells []any) {
		all := 0
		for _, o := range outcomesInOrder {
			cells, all = append(cells, counts[o]), all+counts[o]
		}
		return append([]any{all}, cells...)
	}
	for _, name := range slices.Sorted(maps.Keys(p.rows)) {
		row(name, sum(p.rows[name])...)
		for o, n := range p.rows[name] {
			sums[o] += n
		}
	}
	all := sum(sums)
	row("all", all...)
	verdict := "all clean"
	if sums[failed] > 0 {
		verdict = fmt.Sprintf("%d failed", sums[failed])
	}
	fmt.Fprintf(&b, "%v points, %d outcomes, %s\n", all[0], len(sums), verdict)
	return b.String()
}

// powerLosses counts, for all file systems, the losses of power and those after which
// something that had been promised was lost.
var powerLosses struct {
	mu         sync.Mutex
	cuts, lost int
}

func notePowerCut(lost bool) {
	powerLosses.mu.Lock()
	defer powerLosses.mu.Unlock()
	if powerLosses.cuts++; lost {
		powerLosses.lost++
	}
}

// powerCutsSummary is a line for the end of the tests; "" without a cut.
func powerCutsSummary() string {
	powerLosses.mu.Lock()
	defer powerLosses.mu.Unlock()
	if powerLosses.cuts == 0 {
		return ""
	}
	return fmt.Sprintf("losses of power: %d cuts, %d losses\n", powerLosses.cuts, powerLosses.lost)
}
