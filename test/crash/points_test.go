package crash

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
)

// points counts, for all tests, where something was killed and what came of it.
var points pointTable

// pointTable has a row for each victim and verb.
type pointTable struct {
	mu   sync.Mutex
	rows map[string]*outcomes
}

type outcomes struct{ clean, failed int }

// note counts a point once its test has ended. step is where the victim was killed; ""
// is that the verb had no such step, so that nothing was.
func (p *pointTable) note(t *testing.T, victim, verb, step string) {
	if step == "" {
		return
	}
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.rows == nil {
			p.rows = map[string]*outcomes{}
		}
		name := fmt.Sprintf("%-8s %s", victim, verb)
		if p.rows[name] == nil {
			p.rows[name] = &outcomes{}
		}
		if t.Failed() {
			p.rows[name].failed++
		} else {
			p.rows[name].clean++
		}
	})
}

// String is the table with its sum; "" when nothing was killed at a step.
func (p *pointTable) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rows) == 0 {
		return ""
	}
	var b strings.Builder
	var sum outcomes
	row := func(name string, o outcomes) {
		fmt.Fprintf(&b, "  %-32s %6d %6d %6d\n", name, o.clean+o.failed, o.clean, o.failed)
	}
	fmt.Fprintf(&b, "killed at each step:\n  %-32s %6s %6s %6s\n", "who      verb", "points", "clean", "failed")
	for _, name := range slices.Sorted(maps.Keys(p.rows)) {
		row(name, *p.rows[name])
		sum.clean += p.rows[name].clean
		sum.failed += p.rows[name].failed
	}
	row("all", sum)
	return b.String()
}
