package crash

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"berth/test/node"
)

// most bounds the steps of a verb; the longest has a third of it.
const most = 150

// TestKilledAtEveryStep kills the daemon before each step of each verb.
func TestKilledAtEveryStep(t *testing.T) {
	for _, verb := range slices.Sorted(maps.Keys(verbs)) {
		t.Run(verb, func(t *testing.T) {
			d := start(t, node.Options{Tmpfs: true})
			d.watch()
			before := d.facts()
			for n, last := 1, false; !last; n++ {
				if n > most {
					t.Fatalf("more than %d steps", most)
				}
				t.Run(strconv.Itoa(n), func(t *testing.T) {
					defer d.as(t)()
					step, took := d.cutShort(verbs[verb](d), n)
					d.settled("after "+verb+" and its opposite", before)
					d.witness.stillRuns()
					if last = step == ""; last {
						t.Logf("%d steps in %v", n-1, took)
					}
					if t.Failed() {
						t.Logf("killed at: %s", step)
						before = d.facts()
					}
				})
			}
			d.unnoticed()
		})
	}
}

// as makes failures those of a subtest, until the function it gives is called.
func (d *daemon) as(t *testing.T) (back func()) {
	was := d.t
	d.t = t
	return func() { d.t = was }
}

// cutShort makes the call, kills the daemon at the n-th step, or after the
// answer, and judges. It tells the step, and how long the call took.
func (d *daemon) cutShort(a attempt, n int) (step string, took time.Duration) {
	d.t.Helper()
	tr := trace(d.t, d.PID(), n)
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	began := time.Now()
	err := a.call(ctx)
	took = time.Since(began)
	d.kill()
	if step = tr.killed(d.t); step == "" && err != nil {
		d.t.Errorf("nobody was killed, and the call fails: %v", err)
	}
	d.restart()
	a.judge()
	return step, took
}
