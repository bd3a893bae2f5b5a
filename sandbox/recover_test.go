package sandbox

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
	"berth/sandbox/record"
)

// edit changes a record on disk while no daemon runs.
func edit(t *testing.T, path string, change func(map[string]any)) {
	t.Helper()
	var rec map[string]any
	if err := atomicfile.Read(path, &rec); err != nil {
		t.Fatal(err)
	}
	change(rec)
	if err := atomicfile.WriteVolatile(path, rec); err != nil {
		t.Fatal(err)
	}
}

// What runs is adopted by the next daemon with all that a status tells.
func TestRecoverAdoptsWhatRuns(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	runs, waits, ended := n.run(pod, "runs"), n.create(pod, "waits"), n.run(pod, "ended")
	n.shim.exit(ended, 4)
	await(t, "the end", func() bool { return n.container(ended).State == ctrExited })
	before := n.container(runs)
	n.restart()
	if st := n.podStatus(pod); st.State != podReady || st.Config.GetMetadata().GetName() != "a" {
		t.Errorf("the pod: %+v", st)
	}
	after := n.container(runs)
	if after.State != ctrRunning || !after.StartedAt.Equal(before.StartedAt) || after.ImageRef != before.ImageRef || after.PID != before.PID {
		t.Errorf("the container that runs: %+v, before %+v", after, before)
	}
	if st := n.container(waits); st.State != ctrCreated {
		t.Errorf("the container that waits: %+v", st)
	}
	if st := n.container(ended); st.State != ctrExited || st.ExitCode != 4 {
		t.Errorf("the container that ended: %+v", st)
	}
	if len(n.images.held) != 3 {
		t.Errorf("layers held: %v", n.images.held)
	}
	if err := n.m.StartContainer(t.Context(), waits); err != nil {
		t.Errorf("start by the next daemon: %v", err)
	}
	n.shim.exit(runs, 5)
	await(t, "an end after the restart", func() bool { return n.container(runs).ExitCode == 5 })
}

// TestReadingIsCutOff: a daemon that is ended while it reads the records takes in none of them,
// and the next one finds all as they were.
func TestReadingIsCutOff(t *testing.T) {
	n := newFakeNode(t)
	runs := n.run(n.pod("a"), "runs")
	n.end()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	n.open()
	if err := n.m.Recover(ended); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("recovery from records that were not read: %v", err)
	}
	if pods := n.m.Pods(); len(pods) > 0 {
		t.Errorf("it has the pods %v", pods)
	}
	n.restart()
	if st := n.container(runs); st.State != ctrRunning {
		t.Errorf("the container that runs: %+v", st)
	}
}

// What ended while no daemon ran is read from the shim's record.
func TestRecoverLearnsOfEnds(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	id := n.run(pod, "c")
	n.restart(func() { n.shim.exit(id, 6) })
	if st := n.container(id); st.State != ctrExited || st.ExitCode != 6 {
		t.Errorf("the container: %+v", st)
	}
	n.restart(func() { n.shim.endPause(pod) })
	if st := n.podStatus(pod); st.State != podStopped {
		t.Errorf("the pod without its pause process: %+v", st)
	}
}

// A daemon that was killed in the middle of a verb leaves a record that says so; the
// next one finishes or undoes it.
func TestRecoverFinishesWhatWasCutShort(t *testing.T) {
	for intent, stays := range map[string]bool{"making": false, "removing": false, "stopping": true} {
		t.Run(intent, func(t *testing.T) {
			n := newFakeNode(t)
			pod := n.pod("a")
			id := n.run(pod, "c")
			n.restart(func() {
				edit(t, filepath.Join(n.podDirOf(pod), record.PodFile), func(rec map[string]any) { rec["intent"] = intent })
			})
			if !stays {
				wantNothing(t, filepath.Join(n.root, "pods"))
				if len(n.m.Pods())+len(n.m.Containers()) > 0 {
					t.Error("it is still listed")
				}
				return
			}
			if st := n.podStatus(pod); st.State != podStopped {
				t.Errorf("the pod: %+v", st)
			}
			if st := n.container(id); st.State != ctrExited {
				t.Errorf("its container: %+v", st)
			}
		})
	}
}

func TestRecoverRemovesAHalfMadeContainer(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, path string){
		"half made": func(t *testing.T, path string) {
			edit(t, path, func(rec map[string]any) { rec["intent"] = "making" })
		},
		"half removed": func(t *testing.T, path string) {
			edit(t, path, func(rec map[string]any) { rec["intent"] = "removing" })
		},
		"a torn record": func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(`{"version":1,"id":"x`), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"no record": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newFakeNode(t)
			pod := n.pod("a")
			id, other := n.run(pod, "c"), n.run(pod, "other")
			dir := filepath.Join(n.podDirOf(pod), "containers", id)
			n.restart(func() { harm(t, filepath.Join(dir, record.ContainerFile)) })
			if exists(dir) {
				t.Error("its directory is still there")
			}
			if all := n.m.Containers(); len(all) != 1 || all[0].ID != other {
				t.Errorf("listed: %+v", all)
			}
			if st := n.podStatus(pod); st.State != podReady {
				t.Errorf("the pod: %+v", st)
			}
		})
	}
}

// A pod whose record can't be read is put aside with its directory, and what its shim
// holds of it is ended; other pods go on.
func TestRecoverPutsATornPodAside(t *testing.T) {
	for name, text := range map[string]string{"torn": `{"version":1,"id"`, "of a newer daemon": `{"version":99,"config":{}}`, "lost": ""} {
		t.Run(name, func(t *testing.T) {
			n := newFakeNode(t)
			torn, whole := n.pod("torn"), n.pod("whole")
			n.run(torn, "c")
			n.restart(func() {
				file := filepath.Join(n.podDirOf(torn), record.PodFile)
				err := os.WriteFile(file, []byte(text), 0o600)
				if text == "" {
					err = os.Remove(file)
				}
				if err != nil {
					t.Fatal(err)
				}
			})
			if st := n.podStatus(whole); st.State != podReady {
				t.Errorf("the other pod: %+v", st)
			}
			if len(n.m.Pods()) != 1 {
				t.Errorf("listed: %d pods", len(n.m.Pods()))
			}
			if aside := filepath.Join(n.root, "quarantine", torn); !exists(filepath.Join(aside, "containers")) || exists(filepath.Join(aside, record.PodFile)) != (text != "") {
				t.Error("it is not in quarantine as it was")
			}
			await(t, "the end of what the shim holds of it", func() bool {
				n.shim.mu.Lock()
				defer n.shim.mu.Unlock()
				return len(n.shim.containers) == 0 && len(n.shim.pods) == 1
			})
		})
	}
}

// A record that can't be read for a reason that says nothing of it, here a link to itself for
// a faulty disk or a lack of descriptors, keeps the daemon from starting, and ends nothing.
func TestRecoverEndsNothingThatItCantRead(t *testing.T) {
	for _, unread := range []string{"pod.json", "containers/ID/container.json", "containers"} {
		t.Run(unread, func(t *testing.T) {
			n := newFakeNode(t)
			pod := n.pod("a")
			id := n.run(pod, "c")
			path := filepath.Join(n.podDirOf(pod), strings.ReplaceAll(unread, "ID", id))
			kept := filepath.Join(t.TempDir(), "kept")
			n.end()
			n.shim.called() // those before do not count
			move(t, path, kept)
			if err := os.Symlink(path, path); err != nil {
				t.Fatal(err)
			}
			err := n.tryBegin()
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("the start: %v, want an error that names %s", err, path)
			}
			n.end()
			if calls := n.shim.called(); slices.ContainsFunc(calls, isEnding) {
				t.Errorf("calls of the shim: %v, want none that ends what it holds", calls)
			}
			if !exists(filepath.Join(n.state, "containers", id)) {
				t.Error("the state of the container was swept")
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			move(t, kept, path)
			n.begin()
			if st := n.podStatus(pod); st.State != podReady {
				t.Errorf("the pod, once its record can be read: %+v", st)
			}
			if st := n.container(id); st.State != ctrRunning {
				t.Errorf("the container, once its record can be read: %+v", st)
			}
		})
	}
}

// isEnding tells whether a call of a shim ends a pod or container.
func isEnding(call string) bool {
	return slices.ContainsFunc([]string{"kill", "delete", "stop-pod", "remove-pod"}, func(m string) bool { return strings.HasPrefix(call, m) })
}

func move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// After a boot no process of the records is there: pids mean somebody else.
func TestRecoverAfterABoot(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	id := n.run(pod, "c")
	n.restart(func() {
		for _, path := range []string{record.PodFile, filepath.Join("containers", id, record.ContainerFile)} {
			edit(t, filepath.Join(n.podDirOf(pod), path), func(rec map[string]any) { rec["boot_id"] = "another" })
		}
	})
	if st := n.podStatus(pod); st.State != podStopped {
		t.Errorf("the pod: %+v", st)
	}
	if st := n.container(id); st.State != ctrExited {
		t.Errorf("the container: %+v", st)
	}
	if err := n.m.RemovePod(t.Context(), pod); err != nil {
		t.Error(err)
	}
}

// A shim that died while no daemon ran takes its containers along.
func TestRecoverWithoutTheShim(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	id := n.run(pod, "c")
	n.restart(n.shim.die)
	if st := n.container(id); st.State != ctrExited || st.Reason != shimapi.ReasonUnknown {
		t.Errorf("the container: %+v", st)
	}
	lost := n.container(id).FinishedAt
	n.restart()
	if st := n.container(id); !st.FinishedAt.Equal(lost) {
		t.Errorf("lost at %v, after one more restart at %v", lost, st.FinishedAt)
	}
	if st := n.podStatus(pod); st.State != podStopped {
		t.Errorf("the pod: %+v", st)
	}
}

// A shim that does not hold what is recorded to be in it, as after a hand-over that was
// cut short, makes that end.
func TestRecoverEndsWhatTheShimDoesNotHold(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	lost, kept := n.run(pod, "lost"), n.run(pod, "kept")
	n.restart(func() { n.shim.forget(lost) })
	if st := n.container(lost); st.State != ctrExited || st.Reason != shimapi.ReasonUnknown {
		t.Errorf("the container that the shim does not hold: %+v", st)
	}
	if st := n.container(kept); st.State != ctrRunning {
		t.Errorf("the other one: %+v", st)
	}
}

// A shim's container or pod without a record would run for ever.
func TestRecoverEndsWhatHasNoRecord(t *testing.T) {
	n := newFakeNode(t)
	pod, gone := n.pod("a"), n.pod("gone")
	id := n.run(pod, "c")
	n.run(gone, "d")
	n.restart(func() {
		for _, dir := range []string{n.podDirOf(gone), filepath.Join(n.podDirOf(pod), "containers", id)} {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	})
	await(t, "the end of both", func() bool {
		n.shim.mu.Lock()
		defer n.shim.mu.Unlock()
		return len(n.shim.containers) == 0 && len(n.shim.pods) == 1
	})
	if got := n.shim.called(); !strings.Contains(strings.Join(got, " "), "remove-pod") {
		t.Errorf("calls: %v", got)
	}
	wantNothing(t, filepath.Join(n.state, "containers"))
}

// A start asks each shim once for what it holds, and reads no record of a shim that is listed so.
func TestRecoverAsksAShimOnce(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	runs, ended := n.run(pod, "runs"), n.run(pod, "ended")
	n.shim.exit(ended, 4)
	await(t, "the end", func() bool { return n.container(ended).State == ctrExited })
	var lists atomic.Int32
	var opened func() int
	n.restart(func() {
		n.shim.onCall(func(method, _ string) *shimapi.Error {
			if method == shimapi.MethodList {
				lists.Add(1)
			}
			return nil
		})
		opened = countOpened(t, shimapi.RecordName,
			n.podDirOf(pod), filepath.Join(n.podDirOf(pod), "containers", runs), filepath.Join(n.podDirOf(pod), "containers", ended))
	})
	if got := lists.Load(); got != 1 {
		t.Errorf("the shim was asked %d times for what it holds, want once", got)
	}
	if got := opened(); got != 0 {
		t.Errorf("records of the shim were opened %d times", got)
	}
	if st := n.container(ended); st.State != ctrExited || st.ExitCode != 4 {
		t.Errorf("the container that ended: %+v", st)
	}
	if st := n.container(runs); st.State != ctrRunning || n.podStatus(pod).State != podReady {
		t.Errorf("the container that runs: %+v", st)
	}
}

// countOpened counts how often a file of this name is opened in any of the directories from now
// on.
func countOpened(t *testing.T, name string, dirs ...string) func() int {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	for _, dir := range dirs {
		if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_OPEN); err != nil {
			t.Fatal(err)
		}
	}
	return func() (count int) {
		buf := make([]byte, 64<<10)
		for {
			size, err := unix.Read(fd, buf)
			if err != nil || size == 0 {
				return count
			}
			count += bytes.Count(buf[:size], append([]byte(name), 0)) // names end with zeros
		}
	}
}

// Records are read side by side: a slow disk is waited for once and not for each pod.
func TestRecordsAreReadSideBySide(t *testing.T) {
	n := newFakeNode(t)
	records := map[string][]byte{}
	for _, pod := range []string{n.pod("a"), n.pod("b")} {
		records[filepath.Join(n.podDirOf(pod), record.PodFile)] = nil
	}
	n.restart(func() {
		for path := range records {
			var err error
			if records[path], err = os.ReadFile(path); err == nil {
				err = errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		go feed(t, records)
	})
	if pods := n.m.Pods(); len(pods) != 2 {
		t.Errorf("%d pods, want 2", len(pods))
	}
}

// feed gives the pipes their content once all have a reader at the same time.
func feed(t *testing.T, pipes map[string][]byte) {
	writers := map[string]int{}
	for begin := time.Now(); len(writers) < len(pipes) && time.Since(begin) < 10*time.Second; time.Sleep(time.Millisecond) {
		for path := range pipes {
			if _, there := writers[path]; there {
				continue
			}
			if fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
				writers[path] = fd
			}
		}
	}
	if len(writers) < len(pipes) {
		t.Errorf("%d of %d records are read at the same time", len(writers), len(pipes))
	}
	for path, fd := range writers {
		_, _ = unix.Write(fd, pipes[path])
		_ = unix.Close(fd)
	}
	for path, content := range pipes {
		if _, done := writers[path]; done {
			continue
		}
		if fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil { // waits for its reader
			_, _ = unix.Write(fd, content)
			_ = unix.Close(fd)
		}
	}
}
