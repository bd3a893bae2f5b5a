package shimnode

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"berth/oci/shims"
)

// Journal keeps the events and lets tests wait for one.
type Journal struct {
	mu     sync.Mutex
	events []shims.Event
	more   chan struct{} // closed and replaced at each event
}

func follow(events <-chan shims.Event) *Journal {
	j := &Journal{more: make(chan struct{})}
	go func() {
		for e := range events {
			j.mu.Lock()
			j.events = append(j.events, e)
			close(j.more)
			j.more = make(chan struct{})
			j.mu.Unlock()
		}
	}()
	return j
}

// Await waits for an event of a pod, container or shim, also one that came before.
func (j *Journal) Await(t testing.TB, kind, id string) shims.Event {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		j.mu.Lock()
		more, events := j.more, j.events
		j.mu.Unlock()
		for _, e := range events {
			if e.Kind == kind && (e.Record.ID == id || e.ShimID == id) {
				return e
			}
		}
		select {
		case <-more:
		case <-timeout:
			var told []string
			for _, e := range events {
				told = append(told, fmt.Sprintf("%s %s %.6s %d", e.ShimID, e.Kind, e.Record.ID, e.Record.ExitCode))
			}
			t.Errorf("no event %s of %s among %q", kind, id, told)
			t.FailNow()
		}
	}
}
