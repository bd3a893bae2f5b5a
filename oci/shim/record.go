package shim

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
)

const recordVersion = 1

// A record of an end that could not be written is written again after a pause, which doubles
// up to the longest one: a disk that is full gets room at some time, and nothing tells of that.
const (
	savePause    = time.Second
	maxSavePause = 30 * time.Second
)

// saveRecord writes a record into dir. If that fails the error is logged as well: watchers
// still get the record, and an exit that is not reported would be worse.
func saveRecord(dir string, r shimapi.Record) error {
	err := writeRecord(dir, r)
	if err != nil {
		slog.Error("status not written", "id", r.ID, "status", r.Status, "error", err)
	}
	return err
}

// writeRecord replaces the record in dir. Only that of an exit is needed after a reboot, so
// only that is written durably.
func writeRecord(dir string, r shimapi.Record) error {
	write := atomicfile.WriteVolatile
	if r.Status == shimapi.StatusStopped {
		write = atomicfile.Write
	}
	return write(filepath.Join(dir, shimapi.RecordName), r)
}

// recorder keeps the record of one pod or container. Every change goes to its directory and
// to the hub, in that order and one after the other.
type recorder struct {
	hub *hub
	dir string

	mu      sync.Mutex
	record  shimapi.Record
	lagging bool         // the record on disk is older
	saved   func()       // called, in a goroutine, once it is not; nil: nobody waits
	told    atomic.Value // the [shimapi.Status] that was published last
}

func (r *recorder) current() shimapi.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.record
}

// status is the one that was published last. It does not wait for a change that is being
// written, which the disk may delay: other containers may have to wait for the answer.
func (r *recorder) status() shimapi.Status {
	st, _ := r.told.Load().(shimapi.Status) // none before the first
	return st
}

// change changes the record, writes it to disk and publishes it as an event.
func (r *recorder) change(kind string, alter func(*shimapi.Record)) {
	r.changeIf(kind, func(rec *shimapi.Record) bool {
		alter(rec)
		return true
	})
}

// changeIf is change unless alter returns false and has altered nothing: what the change is about
// may have ended, or be forgotten, since the caller has looked.
func (r *recorder) changeIf(kind string, alter func(*shimapi.Record) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if alter(&r.record) {
		r.save()
		r.publish(kind)
	}
}

// publish tells everybody of the record. It is called with mu held, or before anybody else knows
// the recorder.
func (r *recorder) publish(kind string) {
	r.told.Store(r.record.Status)
	r.hub.publish(kind, r.record)
}

// save writes the record to disk. It is called with mu held.
func (r *recorder) save() {
	err := saveRecord(r.dir, r.record)
	r.lagging = err != nil
	if err != nil && r.record.Status == shimapi.StatusStopped {
		r.saveLater(savePause)
	}
}

// isSavedOr tells that the record of an end is on disk. If not, later is called once it is.
func (r *recorder) isSavedOr(later func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lagging {
		r.saved = later
	}
	return !r.lagging
}

// saveLater writes the record of an end, again and again until it is on disk: should this shim
// and the daemon die, or the machine start anew, nobody else would know the exit code. It is of
// use until the daemon removes the directory, also after the container was deleted here. A
// record of an end does not change any more.
func (r *recorder) saveLater(pause time.Duration) {
	time.AfterFunc(pause, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		err := writeRecord(r.dir, r.record)
		switch {
		case err == nil:
			r.lagging = false
			slog.Info("status written late", "id", r.record.ID)
			if r.saved != nil {
				go r.saved()
			}
		case !errors.Is(err, fs.ErrNotExist):
			r.saveLater(min(2*pause, maxSavePause))
		}
	})
}

// endInput records that the input of the container has ended, unless it has ended itself.
func (r *recorder) endInput() {
	r.changeIf(shimapi.EventStdinClosed, func(rec *shimapi.Record) bool {
		if rec.Status == shimapi.StatusStopped {
			return false
		}
		rec.StdinClosed = true
		return true
	})
}

// setExit writes how a process ended into its record.
func setExit(r *shimapi.Record, exit shimapi.ExitStatus) {
	r.Status, r.FinishedAt = shimapi.StatusStopped, exit.FinishedAt
	r.ExitCode, r.Signal = exit.Code, exit.Signal
}

// exitOf is the exit status of a process that was just waited for.
func exitOf(state *os.ProcessState) shimapi.ExitStatus {
	code, signal := exitCode(state)
	return shimapi.ExitStatus{Code: code, Signal: signal, FinishedAt: time.Now()}
}

// exitCode returns the exit code, 128+signal if a signal ended the process, and 255 if
// that is not known.
func exitCode(state *os.ProcessState) (code, signal int) {
	if state == nil {
		return shimapi.CodeUnknown, 0
	}
	ws, ok := state.Sys().(syscall.WaitStatus)
	if !ok {
		return shimapi.CodeUnknown, 0
	}
	return waitCode(ws)
}

func waitCode(ws syscall.WaitStatus) (code, signal int) {
	if ws.Signaled() {
		return 128 + int(ws.Signal()), int(ws.Signal())
	}
	return ws.ExitStatus(), 0
}

// recordFailure writes a record which says that the container never ran.
func (cs *containers) recordFailure(ctr *container, err error) {
	now := time.Now()
	_ = saveRecord(ctr.dir, shimapi.Record{ // whoever wanted the container gets the reason as well
		Version: recordVersion, ID: ctr.id, Pod: ctr.pod, Status: shimapi.StatusStopped, BootID: cs.bootID,
		CreatedAt: now, FinishedAt: now, ExitCode: shimapi.CodeStartError, Reason: shimapi.ReasonStartError, Message: err.Error(),
	})
}
