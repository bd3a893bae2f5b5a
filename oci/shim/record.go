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

// saveRecord writes a record into dir. Only the record of an exit is needed after a reboot,
// so only that is written durably. If the write fails the error is logged: watchers still
// get the record, and an exit that is not reported would be worse.
func saveRecord(dir string, r shimapi.Record) {
	write := atomicfile.WriteVolatile
	if r.Status == shimapi.StatusStopped {
		write = atomicfile.Write
	}
	if err := write(filepath.Join(dir, shimapi.RecordName), r); err != nil {
		slog.Error("status not written", "id", r.ID, "status", r.Status, "error", err)
	}
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
