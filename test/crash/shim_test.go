package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/atomicfile"
	"berth/oci/shims"
	"berth/test/client"
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
	d.shimKills++
}

// handedOver waits until the replacement of a dead shim holds the witness: until then the
// daemon alone keeps it, and a verb that has nothing left to do ends before that.
func (d *daemon) handedOver() {
	d.t.Helper()
	d.witness.Sh("true")
}

// cutOffWrites makes what is left in the container's and its pod's directories when the
// shim and the daemon are killed while each writes a record of its own.
func (c *ctr) cutOffWrites() {
	c.p.d.t.Helper()
	pod := filepath.Join(c.p.d.Root, "pods", c.p.ID)
	for _, record := range []string{
		filepath.Join(pod, "pod.json"), filepath.Join(pod, "containers", c.ID, "container.json"), filepath.Join(pod, "containers", c.ID, "status.json"),
	} {
		if _, err := os.Stat(record); err != nil {
			c.p.d.t.Fatal(err)
		}
		temporary := filepath.Join(filepath.Dir(record), atomicfile.TempPrefix+filepath.Base(record)+"-1")
		if err := os.WriteFile(temporary, []byte("{"), 0o600); err != nil {
			c.p.d.t.Fatal(err)
		}
	}
}

// TestShimIsKilled: the daemon starts another shim, which goes on with what the
// dead one held.
func TestShimIsKilled(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.shimKills = 1
	d.watch()
	before := d.facts()
	p := d.pod("outlives")
	c := p.start("c", "trap 'exit 5' TERM; echo once; while :; do usleep 1000; done")
	c.saidOnce()
	d.witness.cutOffWrites()
	for range 3 {
		d.killShim()
		d.witness.stillRuns()
		c.stillRuns()
		n := d.witness.lines()
		eventually(t, "the witness goes on", func() bool { return d.witness.lines() > n })
	}
	q := d.pod("new")
	q.works()
	q.Remove()
	if _, err := d.Runtime.StopContainer(within(t), &runtimeapi.StopContainerRequest{ContainerId: c.ID, Timeout: 10}); err != nil {
		t.Error(err)
	}
	if st := c.Status(); st.GetExitCode() != 5 {
		t.Errorf("a container that was handed on ended with %d, want 5: %v", st.GetExitCode(), st)
	}
	d.crash() // the heir is found again
	p.Remove()
	d.settled("after pods that outlived a shim", before)
	d.unnoticed()
}

// onEachShimVerb runs a test on a node of its own for each verb that the shim has
// a part in. Nothing may have been noticed in the end.
func onEachShimVerb(t *testing.T, test func(t *testing.T, d *daemon, verb string)) {
	for _, verb := range slices.Sorted(maps.Keys(verbs)) {
		if verb == "PullImage" || verb == "RemoveImage" {
			continue // nothing of the shim's
		}
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			d := start(t, node.Options{Tmpfs: true})
			d.shimKills = 1
			d.watch()
			test(t, d, verb)
			d.unnoticed()
		})
	}
}

// TestShimKilledAtEveryStep kills the shim before each step of its part of each
// verb. The call may fail; what is left is whole or can be removed.
func TestShimKilledAtEveryStep(t *testing.T) {
	soak(t)
	onEachShimVerb(t, func(t *testing.T, d *daemon, verb string) {
		before := d.facts()
		for n, last := 1, false; !last; n++ {
			if n > most {
				t.Fatalf("more than %d steps", most)
			}
			if !t.Run(strconv.Itoa(n), func(t *testing.T) {
				defer d.as(t)()
				a := verbs[verb](d)
				held := openPID(t, d.shimPID())
				tr := trace(t, d.shimPID(), n, d.Dir)
				err := a.call(within(t))
				if held.lives(0) {
					d.killShim()
				}
				d.shimKills++
				step := tr.killed(t)
				points.note(t, "shim", verb, step, a.judge())
				d.settled("after "+verb+" and its opposite", before)
				d.witness.stillRuns()
				if last = step == ""; last {
					t.Logf("%d steps:\n%s", n-1, strings.Join(tr.steps, "\n"))
				}
				if t.Failed() {
					t.Logf("killed at: %s; the call said %v", step, err)
				}
			}) {
				before = d.facts()
			}
			d.handedOver()
			d.crash() // else it would take what it hands on for what kills the shims
		}
	})
}

// TestShimIsKilledInTheMiddle kills the shim while it works for each verb. The
// call may fail; what is left is whole or can be removed.
func TestShimIsKilledInTheMiddle(t *testing.T) {
	soak(t)
	// More in two seconds and the daemon takes it that what it hands on kills shims.
	const kills = 3
	numbers := random(t)
	onEachShimVerb(t, func(t *testing.T, d *daemon, verb string) {
		d.losesLines = true
		before := d.facts()
		took := d.uncut(verbs[verb](d))
		for i := range kills {
			delay := time.Duration((float64(i) + numbers.Float64()) / kills * float64(took))
			t.Run(delay.Round(10*time.Microsecond).String(), func(t *testing.T) {
				defer d.as(t)()
				a := verbs[verb](d)
				t.Logf("answered with: %v", during(t, a, delay, d.killShim))
				a.judge()
				d.settled("after "+verb+" and its opposite", before)
				d.witness.stillRuns()
			})
		}
	})
}

// TestShimAndDaemonAreKilled: with nobody left to wait for them, containers end
// with an unknown code, and their pods can only be removed.
func TestShimAndDaemonAreKilled(t *testing.T) {
	for _, first := range []string{"daemon", "shim"} {
		t.Run(first, func(t *testing.T) {
			d := start(t, node.Options{Tmpfs: true})
			d.shimKills = 1
			d.pull(busybox)
			d.pod("first").Remove() // its directories stay
			before := d.facts()
			c := d.counts("lost")
			created := c.p.create(client.Shell("created", "sleep 1000"))
			ended := c.p.start("ended", "exit 3")
			ended.Ended()
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
			if st := ended.Status(); st.GetExitCode() != 3 {
				t.Errorf("what had ended before has code %d", st.GetExitCode())
			}
			p := d.pod("new") // a new shim
			p.works()
			p.Remove()
			c.p.Remove()
			d.settled("after the lost pod is removed", before)
		})
	}
}

// TestDaemonKilledInAHandOver: the daemon dies at every step of the hand-over to
// the heir of a shim. What the heir has not got by then is known to have ended.
func TestDaemonKilledInAHandOver(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.shimKills = 1
	d.pull(busybox)
	d.pod("first").Remove() // its directories stay
	before := d.facts()
	for n, last := 1, false; !last; n++ {
		if n > most {
			t.Fatalf("more than %d steps", most)
		}
		if !t.Run(strconv.Itoa(n), func(t *testing.T) {
			defer d.as(t)()
			c := d.counts("handed-over")
			tr := trace(t, d.PID(), n, d.Dir)
			d.killShim()
			// Answered by the heir, or by the death of the daemon.
			_, _ = d.Runtime.ExecSync(within(t), &runtimeapi.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"true"}})
			d.kill()
			step := tr.killed(t)
			d.restart()
			came := c.heldOrLost()
			points.note(t, "berthd", "hand-over of a shim", step, came)
			c.p.Remove()
			d.settled("after a hand-over that was cut short", before)
			t.Logf("%s: killed at %s", came, step)
			last = step == ""
		}) {
			t.FailNow()
		}
	}
}

// heldOrLost checks that a counter runs and is listened to, or is told to have
// ended and is gone; a ready pod has a pause whose end is noticed.
func (c *ctr) heldOrLost() (came outcome) {
	t := c.p.d.t
	t.Helper()
	lines := c.lines()
	eventually(t, "the container is whole, or known to have ended", func() bool {
		came = lost
		if c.Status().GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING {
			came = held
		}
		cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.pid))
		alive := err == nil && strings.Contains(string(cgroup), c.ID)
		if came == held {
			return alive && c.lines() > lines
		}
		return !alive
	})
	if st := c.p.Status(); st.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY {
		if pid := c.p.pause(); pid > 1 { // else it has just ended
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		eventually(t, "the end of the pause is noticed", func() bool {
			return c.p.Status().GetState() == runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		})
	}
	return came
}

// pause is the pod's pause process.
func (p *pod) pause() int {
	p.d.t.Helper()
	r, err := p.d.Runtime.PodSandboxStatus(within(p.d.t), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.ID, Verbose: true})
	if err != nil {
		p.d.t.Fatalf("PodSandboxStatus: %v", err)
	}
	var info struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(r.GetInfo()["info"]), &info); err != nil {
		p.d.t.Fatal(err)
	}
	return info.PID
}

// lostWith checks a pod whose processes could not be taken over.
func (p *pod) lostWith(running, created *ctr, began time.Time) {
	t := p.d.t
	t.Helper()
	p.released()
	for name, c := range map[string]*ctr{"running": running, "created": created} {
		st := c.Status()
		if st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || st.GetExitCode() != 255 || st.GetReason() != "ContainerStatusUnknown" {
			t.Errorf("the %s container is %v with code %d, reason %s", name, st.GetState(), st.GetExitCode(), st.GetReason())
		}
		if at := time.Unix(0, st.GetFinishedAt()); at.Before(began) || at.After(time.Now()) {
			t.Errorf("the %s container was found lost at %v", name, at)
		}
	}
	was := running.Status()
	p.d.crash()
	if is := running.Status(); is.String() != was.String() {
		t.Errorf("another restart changed the status from\n%v to\n%v", was, is)
	}
}

// TestHalfMadePodWithoutItsShim: the daemon dies while a plugin runs, and so does
// the shim. The next daemon has nobody to ask what there is.
func TestHalfMadePodWithoutItsShim(t *testing.T) {
	d, g := withGates(t)
	d.pull(busybox)
	p := d.pod("first")
	p.works() // directories of the network stay
	p.Remove()
	d.shimKills = 1
	before := d.facts()
	c := d.podConfig("half")
	gt := g.shut("before-ADD")
	answered := make(chan error, 1)
	go func() {
		_, err := d.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: c})
		answered <- err
	}()
	gt.await()
	gt.remove()
	d.kill()
	<-answered
	d.killShim()
	d.restart()
	if found := d.find(c); len(found) > 0 {
		t.Errorf("pods: %v", found)
	}
	d.settled("after a pod of which half was made", before)
}

// TestHalfMadeContainerWithoutItsShim: daemon and shim die while a container is created,
// when its cgroup and its process are there, and the shim has not written down which. The
// next daemon knows them by their name.
func TestHalfMadeContainerWithoutItsShim(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.pull(busybox)
	d.pod("first").Remove() // its directories stay
	d.shimKills = 1
	before := d.facts()
	p := d.pod("half")
	c := p.create(client.Shell("c", "sleep 1000"))
	d.kill()
	d.killShim()
	dir := filepath.Join(d.Root, "pods", p.ID, "containers", c.ID)
	var rec map[string]any
	if err := atomicfile.Read(filepath.Join(dir, "container.json"), &rec); err != nil {
		t.Fatal(err)
	}
	rec["intent"] = "making"
	if err := errors.Join(atomicfile.Write(filepath.Join(dir, "container.json"), rec), os.Remove(filepath.Join(dir, "status.json"))); err != nil {
		t.Fatal(err)
	}
	d.restart()
	p.Remove()
	d.settled("after a container of which half was made", before)
}

// TestShimIsStoppedWhenTheDaemonStarts: a shim that hangs holds up the start for a bounded
// time, and only its own pods after that. When it goes on, all is as before.
func TestShimIsStoppedWhenTheDaemonStarts(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.watch()
	shim := d.shimPID()
	goOn := func() {
		if err := unix.Kill(shim, unix.SIGCONT); err != nil {
			t.Error(err)
		}
	}
	d.kill()
	if err := unix.Kill(shim, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer goOn()
	began := time.Now()
	d.restart()
	if took := time.Since(began); took > bound(25*time.Second) {
		t.Errorf("the start took %v", took)
	}
	d.witness.runsOn()
	soon, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	began = time.Now()
	if _, err := d.Exec(soon, d.witness.ID, "true"); err == nil || time.Since(began) > 2*time.Second+bound(2*time.Second) {
		t.Errorf("after %v an exec by the shim that hangs: %v", time.Since(began), err)
	}
	p := d.pod("beside")
	p.works()
	p.Remove()
	goOn()
	eventually(t, "the shim serves again", func() bool {
		out, err := d.Exec(within(t), d.witness.ID, "echo", "hello")
		return err == nil && out == "hello\n"
	})
	d.unnoticed()
	d.crash()
	d.unnoticed()
}

// runsOn checks what needs no shim: a container that ran is known to run.
func (c *ctr) runsOn() {
	c.T.Helper()
	if st, err := c.p.d.ContainerStatus(within(c.T), c.ID); err != nil || st.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		c.T.Errorf("the container is %v, %v", st, err)
	}
}

// TestHungShimDoesNotHoldAll: a container that a shim, which hangs when the daemon starts, does
// not hold is found lost when the shim goes on: nobody else would ever tell of its end.
func TestHungShimDoesNotHoldAll(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.watch()
	c := d.pod("beside").start("c", "sleep 1000")
	d.kill()
	d.forgotten(c)
	shim := d.shimPID()
	if err := unix.Kill(shim, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := func() error { return unix.Kill(shim, unix.SIGCONT) }
	defer goOn() // a second time, unless the test has failed
	d.restart()
	if err := goOn(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the container has ended", func() bool {
		st, err := d.ContainerStatus(within(t), c.ID)
		return err == nil && st.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	c.p.Remove()
	d.unnoticed()
}

// forgotten makes the shim forget a container, while there is no daemon, as when both died
// before a record of it was written.
func (d *daemon) forgotten(c *ctr) {
	d.t.Helper()
	status := filepath.Join(d.Root, "pods", c.p.ID, "containers", c.ID, "status.json")
	running, err := os.ReadFile(status)
	if err != nil {
		d.t.Fatal(err)
	}
	ctx := within(d.t)
	set, err := shims.Open(ctx, shims.Config{StateDir: d.State})
	if err != nil {
		d.t.Fatal(err)
	}
	go func() {
		for range set.Events() {
		}
	}()
	sh, err := set.Get(d.shims()[0])
	if err == nil {
		err = errors.Join(sh.Delete(ctx, c.ID), set.Close(), os.WriteFile(status, running, 0o600))
	}
	if err != nil {
		d.t.Fatal(err)
	}
}
