package shim

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
	"berth/test/fewfiles"
)

func TestHubReplaysAndPublishes(t *testing.T) {
	h := newHub()
	h.publish(shimapi.EventStarted, shimapi.Record{ID: "p", Status: shimapi.StatusRunning})
	h.publish(shimapi.EventCreated, shimapi.Record{ID: "c", Pod: "p", Status: shimapi.StatusCreated})
	h.publish(shimapi.EventExited, shimapi.Record{ID: "gone", Pod: "p", Status: shimapi.StatusStopped})
	h.forget("gone")
	replay, events := h.subscribe()
	got := map[string]string{}
	for _, e := range replay {
		if !e.Replay {
			t.Errorf("%s of the replay is not marked as such", e.Record.ID)
		}
		got[e.Record.ID] = e.Kind
	}
	if len(got) != 2 || got["p"] != shimapi.EventStarted || got["c"] != shimapi.EventCreated {
		t.Errorf("replay %v, want p started and c created", got)
	}
	if l := h.list(); len(l.Pods) != 1 || len(l.Containers) != 1 {
		t.Errorf("list has %d pods and %d containers, want 1 and 1", len(l.Pods), len(l.Containers))
	}
	h.publish(shimapi.EventStarted, shimapi.Record{ID: "c", Pod: "p", Status: shimapi.StatusRunning})
	if e := <-events; e.Kind != shimapi.EventStarted || e.Record.ID != "c" || e.Replay {
		t.Errorf("event %+v, want that c has started", e)
	}
	h.unsubscribe(events)
	if _, open := <-events; open {
		t.Error("an event after unsubscribe")
	}
	h.unsubscribe(events) // may be repeated
}

// TestHubClosesSlowWatchers: a watcher that falls behind delays nobody.
func TestHubClosesSlowWatchers(t *testing.T) {
	h := newHub()
	_, slow := h.subscribe()
	for range backlog + 1 {
		h.publish(shimapi.EventOOM, shimapi.Record{ID: "c", Pod: "p"})
	}
	n := 0
	for range slow {
		n++
	}
	if n != backlog {
		t.Errorf("%d events before the channel was closed, want %d", n, backlog)
	}
}

func TestHubCloses(t *testing.T) {
	h := newHub()
	_, before := h.subscribe()
	h.close()
	_, after := h.subscribe()
	for name, events := range map[string]chan shimapi.Event{"before": before, "after": after} {
		if _, open := <-events; open {
			t.Errorf("the channel of a watcher from %s the end is open", name)
		}
	}
	h.unsubscribe(before)
}

// TestRecorder: every change is on disk and published.
func TestRecorder(t *testing.T) {
	dir := t.TempDir()
	r := &recorder{hub: newHub(), dir: dir, record: shimapi.Record{ID: "c", Pod: "p", Status: shimapi.StatusRunning}}
	_, events := r.hub.subscribe()
	r.endInput()
	r.change(shimapi.EventExited, func(rec *shimapi.Record) { setExit(rec, shimapi.ExitStatus{Code: 3}) })
	r.endInput() // of a container that has ended: nobody needs it
	r.hub.close()
	var kinds []string
	for e := range events {
		kinds = append(kinds, e.Kind)
	}
	if len(kinds) != 2 || kinds[0] != shimapi.EventStdinClosed || kinds[1] != shimapi.EventExited {
		t.Errorf("events %v, want the end of the input and the exit", kinds)
	}
	var stored shimapi.Record
	if err := atomicfile.Read(filepath.Join(dir, shimapi.RecordName), &stored); err != nil {
		t.Fatal(err)
	}
	if stored.ExitCode != 3 || !stored.StdinClosed || r.status() != shimapi.StatusStopped {
		t.Errorf("on disk %+v, in memory %s", stored, r.status())
	}
}

// TestAnEndIsWrittenWhenItCanBe: an end is reported though its record can't be written, and the
// record is written as soon as it can be.
func TestAnEndIsWrittenWhenItCanBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		r := &recorder{hub: newHub(), dir: dir, record: shimapi.Record{ID: "c", Pod: "p", Status: shimapi.StatusRunning}}
		enough := fewfiles.Spare(t, 0)
		r.change(shimapi.EventExited, func(rec *shimapi.Record) { setExit(rec, shimapi.ExitStatus{Code: 3}) })
		told := r.hub.list().Containers
		time.Sleep(10 * maxSavePause) // of the bubble's clock
		enough()
		if len(told) != 1 || told[0].ExitCode != 3 {
			t.Errorf("told %+v, want the end with code 3", told)
		}
		var stored shimapi.Record
		if err := atomicfile.Read(filepath.Join(dir, shimapi.RecordName), &stored); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("the record was written without a descriptor: %+v, %v", stored, err)
		}
		time.Sleep(maxSavePause)
		synctest.Wait()
		if err := atomicfile.Read(filepath.Join(dir, shimapi.RecordName), &stored); err != nil || stored.ExitCode != 3 {
			t.Errorf("on disk %+v, %v, want the end with code 3", stored, err)
		}
	})
}
