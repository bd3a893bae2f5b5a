package shim

import (
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
)

const recordVersion = 1

// saveRecord writes a fact into dir. Only an exit outlives the boot, so only an
// exit is made durable. A failure to write is logged: the fact still reaches the
// watchers, and refusing to tell an exit would be worse.
func saveRecord(dir string, r shimapi.Record) {
	write := atomicfile.WriteVolatile
	if r.Status == shimapi.StatusStopped {
		write = atomicfile.Write
	}
	if err := write(filepath.Join(dir, shimapi.RecordName), r); err != nil {
		slog.Error("status not written", "id", r.ID, "status", r.Status, "error", err)
	}
}

// setExit puts how a process ended into its record.
func setExit(r *shimapi.Record, exit shimapi.ExitStatus) {
	r.Status, r.FinishedAt = shimapi.StatusStopped, exit.FinishedAt
	r.ExitCode, r.Signal = exit.Code, exit.Signal
}

// exitOf is the end, now, of a process that was waited for.
func exitOf(state *os.ProcessState) shimapi.ExitStatus {
	code, signal := exitCode(state)
	return shimapi.ExitStatus{Code: code, Signal: signal, FinishedAt: time.Now()}
}

// exitCode gives the code of an exit, 128+signal for a death by signal, and 255
// when it can't be known.
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
