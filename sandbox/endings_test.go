package sandbox

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
	"berth/oci/shims"
	"berth/sandbox/record"
)

// hungCgroup stands for a cgroup with a process in uninterruptible sleep: the list of its
// processes is a FIFO, so that a kill of them waits until let is called.
type hungCgroup struct {
	t         *testing.T
	dir, list string
	open      *os.File // the end that a kill waits for
}

// hungContainer runs a container in a hungCgroup.
func (n *fakeNode) hungContainer(pod, name string) (string, *hungCgroup) {
	n.t.Helper()
	g := &hungCgroup{t: n.t, dir: filepath.Join(n.t.TempDir(), "cgroup")}
	g.list = filepath.Join(g.dir, "cgroup.procs")
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := unix.Mkfifo(g.list, 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(g.let)
	n.shim.cgroups(map[string]string{"": g.dir})
	defer n.shim.cgroups(nil)
	return n.run(pod, name), g
}

// awaitKill returns when a kill of the processes has begun.
func (g *hungCgroup) awaitKill() {
	g.t.Helper()
	await(g.t, "the kill", func() bool {
		f, err := os.OpenFile(g.list, os.O_WRONLY|unix.O_NONBLOCK, 0)
		g.open = f
		return err == nil
	})
}

// let ends the processes.
func (g *hungCgroup) let() {
	if _, err := os.Lstat(g.list); err != nil {
		return // it was called before
	}
	open, err := os.OpenFile(g.list, os.O_RDWR, 0) // a kill that begins just now does not wait for ever
	if err != nil {
		g.t.Error(err)
	}
	if err := os.Remove(g.list); err != nil {
		g.t.Error(err)
	}
	_ = open.Close()
	if g.open != nil {
		_ = g.open.Close()
	}
}

// soon fails the test when f takes long.
func soon(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatalf("%s waits for what hangs", what)
	}
}

// An end that an event asks for, and that hangs, holds up no other event, nor the end of
// another pod. Those of one pod keep their order.
func TestNoEventWaitsForAnEnd(t *testing.T) {
	for name, ended := range map[string]func(pod, container string) []shims.Event{
		"the shim is gone": func(string, string) []shims.Event {
			return []shims.Event{{ShimID: "s1", Event: shimapi.Event{Kind: shims.EventGone}}}
		},
		"not adopted": func(pod, container string) []shims.Event {
			lost := func(r shimapi.Record) shims.Event {
				return shims.Event{ShimID: "s1", Event: shimapi.Event{Kind: shims.EventLost, Record: r}}
			}
			return []shims.Event{lost(shimapi.Record{ID: container, Pod: pod}), lost(shimapi.Record{ID: pod}), lost(shimapi.Record{ID: "other", Pod: "other"})}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newFakeNode(t)
			pod, other := n.pod("a"), n.pod("b")
			hangs, g := n.hungContainer(pod, "hangs")
			ordinary := n.run(other, "ordinary")
			soon(t, "an event", func() {
				for _, ev := range ended(pod, hangs) {
					n.m.watch.handle(t.Context(), ev)
				}
			})
			g.awaitKill()
			n.shim.exit(ordinary, 3)
			await(t, "the end of a container of another pod", func() bool { return n.container(ordinary).State == ctrExited })
			if st := n.container(hangs); st.State != ctrRunning {
				t.Errorf("the container whose end hangs: %v", st.State)
			}
			if st := n.podStatus(pod); st.State != podReady {
				t.Errorf("the pause process was ended before the container")
			}
			g.let()
			await(t, "the end of the pod", func() bool { return n.podStatus(pod).State == podStopped })
			if st := n.container(hangs); st.State != ctrExited || st.Reason != shimapi.ReasonUnknown {
				t.Errorf("the container that was ended: %v, %s", st.State, st.Reason)
			}
		})
	}
}

// What a shim holds without a record may take a minute to end. Exits are seen meanwhile.
func TestNoEventWaitsForWhatHasNoRecord(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	unknown, ordinary := n.run(pod, "unknown"), n.run(n.pod("b"), "ordinary")
	begun, let := make(chan struct{}), make(chan struct{})
	n.restart(func() {
		if err := os.RemoveAll(filepath.Join(n.podDirOf(pod), "containers", unknown)); err != nil {
			t.Fatal(err)
		}
		n.shim.onCall(func(method, id string) *shimapi.Error {
			if method == shimapi.MethodDelete && id == unknown {
				close(begun)
				<-let
			}
			return nil
		})
	})
	defer close(let)
	<-begun
	n.shim.exit(ordinary, 3)
	await(t, "the end of a container of another pod", func() bool { return n.container(ordinary).ExitCode == 3 })
}

// A start waits for no end that hangs, and the pod is released when that is done.
func TestRecoverWaitsForNoEnd(t *testing.T) {
	for name, c := range map[string]struct {
		before func(n *fakeNode, pod, container string)
		during func(n *fakeNode, pod, container string)
	}{
		"without its shim": {
			before: func(n *fakeNode, _, _ string) { n.shim.die() },
			during: func(n *fakeNode, pod, container string) {
				if st := n.container(container); st.State != ctrRunning {
					n.t.Errorf("the container whose end hangs: %v", st.State)
				}
				if i := n.m.podByID(pod).rec.get().Intent; i != record.Ready {
					n.t.Errorf("the pod is %v before its container has ended", i)
				}
			},
		},
		"not held by its shim": {
			before: func(n *fakeNode, _, container string) { n.shim.forget(container) },
			during: func(n *fakeNode, pod, _ string) {
				another := n.run(pod, "another")
				n.shim.exit(another, 3)
				await(n.t, "the end of another container", func() bool { return n.container(another).ExitCode == 3 })
			},
		},
		"of another boot": {
			before: func(n *fakeNode, pod, container string) {
				n.shim.die()
				for _, path := range []string{record.PodFile, filepath.Join("containers", container, record.ContainerFile)} {
					edit(n.t, filepath.Join(n.podDirOf(pod), path), func(rec map[string]any) { rec["boot_id"] = "another" })
				}
			},
			during: func(n *fakeNode, _, container string) {
				if st := n.container(container); st.State != ctrExited {
					n.t.Errorf("the container of another boot: %v", st.State)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newFakeNode(t)
			pod := n.pod("a")
			id, g := n.hungContainer(pod, "hangs")
			n.end()
			c.before(n, pod, id)
			soon(t, "the start", func() {
				if err := n.tryBegin(); err != nil {
					t.Error(err)
				}
			})
			g.awaitKill()
			c.during(n, pod, id)
			g.let()
			<-n.m.Settled()
			if st := n.container(id); st.State != ctrExited || st.Reason != shimapi.ReasonUnknown {
				t.Errorf("the container that was ended: %v, %s", st.State, st.Reason)
			}
		})
	}
}

// When the daemon is to end, no further end begins, and none is waited for for ever.
func TestEndingsStopWithTheDaemon(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	e := newEndings()
	begun, let := make(chan struct{}), make(chan struct{})
	hang := func(context.Context) {
		begun <- struct{}{}
		<-let
	}
	never := func(context.Context) { t.Error("an end began although there was no room, or one before it") }
	var all []<-chan struct{}
	for i := range endTogether {
		all = append(all, e.add(ctx, string(rune('a'+i)), hang))
		<-begun
	}
	all = append(all, e.add(ctx, "a", never), e.add(ctx, "another", never))
	cancel()
	<-all[len(all)-1]
	close(let)
	for _, done := range all {
		<-done
	}
	await(t, "that nothing is kept", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return len(e.last) == 0
	})
}
