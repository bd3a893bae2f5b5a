package tally

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Outcome is how a call ended.
type Outcome string

const (
	Fine    Outcome = "ok"
	Cut     Outcome = "cut short by a kill"
	GaveUp  Outcome = "given up by the client"
	Removed Outcome = "its image was removed before"
	Refused Outcome = "refused as it must be"
	Wrong   Outcome = "FAILED"
)

// errorsKept is how many messages are kept of what must not happen.
const errorsKept = 20

// Tally counts outcomes and keeps what must not be.
type Tally struct {
	mu     sync.Mutex
	counts map[string]map[Outcome]int // by kind of call
	errors []string
	lost   int // errors not kept
}

// Count notes the outcome of one call of a kind.
func (t *Tally) Count(kind string, o Outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = map[string]map[Outcome]int{}
	}
	if t.counts[kind] == nil {
		t.counts[kind] = map[Outcome]int{}
	}
	t.counts[kind][o]++
}

// Problem notes what must not be; the format is that of fmt.Sprintf.
func (t *Tally) Problem(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.errors) >= errorsKept {
		t.lost++
		return
	}
	t.errors = append(t.errors, fmt.Sprintf(format, args...))
}

// Problems is how many there were.
func (t *Tally) Problems() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.errors) + t.lost
}

// Calls is how many calls were counted, whatever their outcome.
func (t *Tally) Calls() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, outcomes := range t.counts {
		for _, count := range outcomes {
			n += count
		}
	}
	return n
}

// Err has all problems that were kept, and is nil when there was none.
func (t *Tally) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.errors) == 0 {
		return nil
	}
	text := strings.Join(t.errors, "\n")
	if t.lost > 0 {
		text += fmt.Sprintf("\nand %d more", t.lost)
	}
	return fmt.Errorf("%d things are not as they must be:\n%s", len(t.errors)+t.lost, text)
}

// String is a line for each kind of call.
func (t *Tally) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(t.counts)) {
		fmt.Fprintf(&b, "  %-12s", kind)
		for i, o := range slices.Sorted(maps.Keys(t.counts[kind])) {
			if i > 0 {
				b.WriteString(",")
			}
			fmt.Fprintf(&b, " %d %s", t.counts[kind][o], o)
		}
		b.WriteString("\n")
	}
	return b.String()
}
