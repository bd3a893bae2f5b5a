package crash

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/node"
)

// killShim ends the only shim as a crash does.
func (d *daemon) killShim() {
	d.t.Helper()
	pid := d.shimPID()
	held := openPID(d.t, pid)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		d.t.Fatal(err)
	}
	held.await()
}

// TestShimIsKilled: the daemon starts another shim, which goes on with what the
// dead one held.
func TestShimIsKilled(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.heirs = true
	d.watch()
	before := d.facts()
	p := d.pod("outlives")
	c := p.start("c", "trap 'exit 5' TERM; echo once; while :; do usleep 1000; done")
	c.saidOnce()
	for range 3 {
		d.killShim()
		d.witness.stillRuns()
		c.stillRuns()
		n := d.witness.lines()
		eventually(t, "the witness goes on", func() bool { return d.witness.lines() > n })
	}
	q := d.pod("new")
	q.works()
	q.remove()
	if _, err := d.Runtime.StopContainer(within(t), &runtimeapi.StopContainerRequest{ContainerId: c.ID, Timeout: 10}); err != nil {
		t.Error(err)
	}
	if st := c.status(); st.GetExitCode() != 5 {
		t.Errorf("a container that was handed on ended with %d, want 5: %v", st.GetExitCode(), st)
	}
	d.crash() // the heir is found again
	p.remove()
	d.settled("after pods that outlived a shim", before)
	d.unnoticed()
}

// TestShimIsKilledInTheMiddle kills the shim while it works for each verb. The
// call may fail; what is left is whole or can be removed.
func TestShimIsKilledInTheMiddle(t *testing.T) {
	const kills = 3
	d := start(t, node.Options{Tmpfs: true})
	d.heirs = true
	d.watch()
	before := d.facts()
	numbers := random(t)
	for _, verb := range slices.Sorted(maps.Keys(verbs)) {
		if verb == "PullImage" || verb == "RemoveImage" {
			continue // nothing of the shim's
		}
		took := d.uncut(verbs[verb](d))
		for i := range kills {
			delay := time.Duration((float64(i) + numbers.Float64()) / kills * float64(took))
			if !t.Run(fmt.Sprintf("%s/%v", verb, delay.Round(10*time.Microsecond)), func(t *testing.T) {
				defer d.as(t)()
				a := verbs[verb](d)
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				answered := make(chan error, 1)
				go func() { answered <- a.call(ctx) }()
				time.Sleep(delay) // the moment of the kill is what is tested
				d.killShim()
				err := <-answered
				t.Logf("answered with %v", err)
				a.judge()
				d.settled("after "+verb+" and its opposite", before)
				d.witness.stillRuns()
			}) {
				before = d.facts()
			}
		}
	}
	d.unnoticed()
}

// TestShimAndDaemonAreKilled: with nobody left to wait for them, containers end
// with an unknown code, and their pods can only be removed.
func TestShimAndDaemonAreKilled(t *testing.T) {
	for _, first := range []string{"daemon", "shim"} {
		t.Run(first, func(t *testing.T) {
			d := start(t, node.Options{Tmpfs: true})
			d.heirs = true
			d.pull(busybox)
			d.pod("first").remove() // its directories stay
			before := d.facts()
			c := d.counts("lost")
			created := c.p.create(c.p.config("created", "sleep 1000"))
			ended := c.p.start("ended", "exit 3")
			ended.ended()
			if first == "daemon" {
				d.kill()
				d.killShim()
			} else {
				shim := d.shimPID()
				daemon := d.PID()
				_ = unix.Kill(shim, unix.SIGKILL)
				_ = unix.Kill(daemon, unix.SIGKILL)
				d.kill()
			}
			began := time.Now()
			d.restart()
			if first == "daemon" {
				c.p.lostWith(c, created, began)
			}
			if st := ended.status(); st.GetExitCode() != 3 {
				t.Errorf("what had ended before has code %d", st.GetExitCode())
			}
			p := d.pod("new") // a new shim
			p.works()
			p.remove()
			c.p.remove()
			d.settled("after the lost pod is removed", before)
		})
	}
}

// lostWith checks a pod whose processes could not be taken over.
func (p *pod) lostWith(running, created *ctr, began time.Time) {
	t := p.d.t
	t.Helper()
	p.released()
	for name, c := range map[string]*ctr{"running": running, "created": created} {
		st := c.status()
		if st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || st.GetExitCode() != 255 || st.GetReason() != "ContainerStatusUnknown" {
			t.Errorf("the %s container is %v with code %d, reason %s", name, st.GetState(), st.GetExitCode(), st.GetReason())
		}
		if at := time.Unix(0, st.GetFinishedAt()); at.Before(began) || at.After(time.Now()) {
			t.Errorf("the %s container was found lost at %v", name, at)
		}
	}
	was := running.status()
	p.d.crash()
	if is := running.status(); is.String() != was.String() {
		t.Errorf("another restart changed the status from\n%v to\n%v", was, is)
	}
}
