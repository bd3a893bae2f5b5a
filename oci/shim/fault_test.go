package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
	"berth/test/fewfiles"
)

func TestStartFault(t *testing.T) {
	for said, want := range map[string]shimapi.Error{
		`unable to start container process: error during container init: exec: "/x": stat /x: no such file or directory`: {Kind: shimapi.KindStartFailed, Message: `command "/x": no such file or directory`},
		`unable to start container process: error during container init: exec: "x": executable file not found in $PATH`:  {Kind: shimapi.KindStartFailed, Message: `command "x": executable file not found in $PATH`},
		`unable to start container process: exec: "/x": permission denied`:                                               {Kind: shimapi.KindStartFailed, Message: `command "/x": permission denied`},
		`unable to start container process: chdir to cwd ("/x") set in config.json failed: not a directory`:              {Kind: shimapi.KindStartFailed, Message: `working directory "/x": not a directory`},
		`unable to start container process: error during container init: mkdir /x: not a directory`:                      {Kind: shimapi.KindStartFailed, Message: `working directory "/x": not a directory`},
		`unable to start container process: error during container init: unable to setup user: x`:                        {Kind: shimapi.KindStartFailed, Message: `unable to setup user: x`},
		`unable to start container process: container init was OOM-killed (memory limit too low?)`:                       {Kind: shimapi.KindStartFailed, Message: `container init was OOM-killed (memory limit too low?)`},
		`unable to start container process: unable to apply cgroup configuration: x`:                                     {Kind: shimapi.KindInternal, Message: `unable to apply cgroup configuration: x`},
	} {
		var got *shimapi.Error
		if !errors.As(startFault(errors.New(said)), &got) || *got != want {
			t.Errorf("%s: %+v", said, got)
		}
	}
	refused := fault(shimapi.KindInvalid, "spec: %w", errors.New("x"))
	var got *shimapi.Error
	if !errors.As(startFault(refused), &got) || got.Kind != shimapi.KindInvalid {
		t.Errorf("the kind is lost: %+v", got)
	}
}

// What the shim lacks for a while is told from what stays, whatever else the error is.
func TestAShortageCrossesTheWire(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want shimapi.Kind
	}{
		"a shortage":        {fmt.Errorf("open: %w", unix.EMFILE), shimapi.KindShortage},
		"one with a kind":   {fault(shimapi.KindNotFound, "state: %w", unix.ENOMEM), shimapi.KindShortage},
		"one of two":        {errors.Join(fault(shimapi.KindInvalid, "log: %w", unix.ENOMEM), errors.New("x")), shimapi.KindShortage},
		"a full disk":       {fault(shimapi.KindInvalid, "log: %w", unix.ENOSPC), shimapi.KindInvalid},
		"another":           {fmt.Errorf("open: %w", unix.EIO), shimapi.KindInternal},
		"another of a kind": {fault(shimapi.KindNotFound, "state: %w", unix.ENOENT), shimapi.KindNotFound},
	} {
		if got := asWireError(c.err); got.Kind != c.want {
			t.Errorf("%s: the kind of %q is %s, want %s", name, got.Message, got.Kind, c.want)
		}
	}
}

// A record that can't be read for want of descriptors is not one that is not there.
func TestLastRecordIsNotFoundOnlyIfItIsNot(t *testing.T) {
	dir := t.TempDir()
	r := shimapi.AdoptRequest{HandoverState: shimapi.HandoverState{ID: "c", Dir: dir}}
	kind := func(bootID string) (k shimapi.Kind) {
		if _, err := lastRecord(r, bootID); err != nil {
			k = asWireError(err).Kind
		}
		return k
	}
	if k := kind("b"); k != shimapi.KindNotFound {
		t.Errorf("of a record that is not there: %q", k)
	}
	if err := atomicfile.WriteVolatile(filepath.Join(dir, shimapi.RecordName), shimapi.Record{ID: "c", BootID: "b"}); err != nil {
		t.Fatal(err)
	}
	enough := fewfiles.Spare(t, 0)
	k := kind("b")
	if enough(); k != shimapi.KindShortage {
		t.Errorf("without descriptors: %q", k)
	}
	if k := kind("b"); k != "" {
		t.Errorf("of a good one: %q", k)
	}
	if k := kind("another"); k != shimapi.KindNotFound {
		t.Errorf("of another boot: %q", k)
	}
}

// A state without the files of the container would be worth nothing.
func TestNoHandoverStateWithoutItsFiles(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	ctr := &container{id: "c", io: &stdio{stdin: w}, process: ended{}}
	enough := fewfiles.Spare(t, 0)
	_, files, err := ctr.handoverState()
	if enough(); asWireError(err).Kind != shimapi.KindShortage || len(files) > 0 {
		t.Errorf("without descriptors: %d files, %v; want a shortage", len(files), err)
	}
	state, files, err := ctr.handoverState()
	if err != nil || len(files) != 1 || state.Files[0] != shimapi.FileStdin {
		t.Errorf("with them: %v, %v", state.Files, err)
	}
	shimapi.CloseFiles(files)
}

func TestCheckCgroupPath(t *testing.T) {
	for path, good := range map[string]bool{
		"/kubepods/x": true, "/": false, "": false, "x": false, "/x/..": false, "//": false, "/../": false,
	} {
		if err := checkCgroupPath(path, false); (err == nil) != good {
			t.Errorf("%q: %v", path, err)
		}
	}
	for path, good := range map[string]bool{"a.slice:cri:id": true, "/kubepods/x": false, "": false} {
		if err := checkCgroupPath(path, true); (err == nil) != good {
			t.Errorf("systemd %q: %v", path, err)
		}
	}
}

func TestSessionName(t *testing.T) {
	for name, good := range map[string]bool{"a-B_9": true, "": false, "../x": false, "a/b": false, "a.b": false, "é": false, "a b": false} {
		if isSessionName(name) != good {
			t.Errorf("%q", name)
		}
	}
}

func TestHub(t *testing.T) {
	h := newHub()
	h.publish(shimapi.EventCreated, shimapi.Record{ID: "a", Pod: "p", Status: shimapi.StatusCreated})
	replay, events := h.subscribe()
	if len(replay) != 1 || !replay[0].Replay || replay[0].Kind != "created" {
		t.Errorf("replay %+v", replay)
	}
	for i := range backlog + 1 {
		h.publish(shimapi.EventOOM, shimapi.Record{ID: "a", Pod: "p", PID: i})
	}
	n := 0
	for e := range events { // ends: it fell behind
		if e.Record.PID != n {
			t.Fatalf("event %d is %+v", n, e)
		}
		n++
	}
	if n != backlog {
		t.Errorf("%d events", n)
	}
	h.unsubscribe(events)
	if l := h.list(); len(l.Pods) != 0 || len(l.Containers) != 1 || l.Containers[0].PID != backlog {
		t.Errorf("list %+v", l)
	}
	h.forget("a")
	h.close()
	if _, events := h.subscribe(); events == nil {
		t.Error("no channel")
	} else if _, open := <-events; open {
		t.Error("a hub that is closed tells")
	}
}
