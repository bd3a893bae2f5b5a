package crash

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/node"
)

// most bounds the steps of a verb; the longest has a third of it.
const most = 150

// TestKilledAtEveryStep kills the daemon before each step of each verb.
func TestKilledAtEveryStep(t *testing.T) {
	for _, verb := range slices.Sorted(maps.Keys(verbs)) {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			d := start(t, node.Options{Tmpfs: true})
			d.watch()
			before := d.facts()
			wrong := 0
			for n, last := 1, false; !last && wrong < 3; n++ {
				if n > most {
					t.Fatalf("more than %d steps", most)
				}
				if !t.Run(strconv.Itoa(n), func(t *testing.T) {
					defer d.as(t)()
					step, came := d.cutShort(verbs[verb](d), n)
					points.note(t, "berthd", verb, step, came)
					last = step == ""
					d.settled("after "+verb+" and its opposite", before)
					d.witness.stillRuns()
					if t.Failed() {
						t.Logf("killed at: %s", step)
					}
				}) {
					wrong++
					before = d.facts()
				}
			}
			d.unnoticed()
		})
	}
}

// TestFirstPodKilledAtEveryStep is RunPodSandbox where the daemon starts a shim
// as well. Without the daemon nothing is left in the end, not even the shim.
func TestFirstPodKilledAtEveryStep(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.pull(busybox)
	d.pod("first").Remove() // its directories stay
	d.quit()
	before := d.facts()
	for n, last := 1, false; !last; n++ {
		if n > most {
			t.Fatalf("more than %d steps", most)
		}
		if !t.Run(strconv.Itoa(n), func(t *testing.T) {
			defer d.as(t)()
			d.restart()
			c := d.podConfig("first")
			step, came := d.cutShort(attempt{
				call: func(ctx context.Context) error {
					_, err := d.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: c})
					return err
				},
				judge: func() outcome {
					found := d.find(c)
					p := d.run(c)
					p.works()
					p.Remove()
					return doneIf(len(found) > 0)
				},
			}, n)
			points.note(t, "berthd", "RunPodSandbox, first", step, came)
			last = strings.Contains(step, "/pods/") // from here on it is as any pod
			d.quit()
			d.settled("without the daemon", before)
			if t.Failed() {
				t.Logf("killed at: %s", step)
			}
		}) {
			t.FailNow()
		}
	}
}

// quit ends the daemon as an operator does; a shim that holds nothing goes too.
func (d *daemon) quit() {
	d.t.Helper()
	d.hangUp()
	if err := d.Stop(); err != nil {
		d.t.Fatal(err)
	}
}

// as makes failures those of a subtest, until the function it gives is called.
func (d *daemon) as(t *testing.T) (back func()) {
	was := d.t
	d.t = t
	return func() { d.t = was }
}

// cutShort makes the call, kills the daemon at the n-th step, or after the
// answer, and judges. It tells the step and what the call had done by then.
func (d *daemon) cutShort(a attempt, n int) (step string, came outcome) {
	d.t.Helper()
	tr := trace(d.t, d.PID(), n, d.Dir)
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	err := a.call(ctx)
	d.kill()
	if step = tr.killed(d.t); step == "" {
		if err != nil {
			d.t.Errorf("nobody was killed, and the call fails: %v", err)
		}
		d.t.Logf("%d steps:\n%s", n-1, strings.Join(tr.steps, "\n"))
	}
	d.restart()
	return step, a.judge()
}
