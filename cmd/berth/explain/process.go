package explain

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// manyZombies is more than a process has between two calls of wait.
const manyZombies = 10

// processLayer tells what became of the first process and what it said last.
type processLayer struct {
	subject
	*section
}

func (l processLayer) tell() {
	c := l.ctr
	record := filepath.Join(c.dir, shimapi.RecordName)
	l.fact("state", record, "%s", c.state())
	if !c.fact.StartedAt.IsZero() {
		l.fact("started", record, "%s", c.fact.StartedAt.UTC().Format(time.RFC3339Nano))
	}
	l.durations()
	if r := l.pod.Runtime; r != nil && r.Shim != "" {
		l.fact("runtime", filepath.Join(l.pod.dir, "pod.json"), "handler %s: %s", l.pod.Handler, r.Shim)
		if l.hidden() {
			l.fact("hidden", record, "the runtime keeps its processes in a kernel or machine of its own; what follows is how that looks from here")
		}
	}
	l.fact("command", filepath.Join(c.dir, "container.json"), "%q", c.Spec.Process.Args)
	switch {
	case c.ended():
		l.end(record)
	case l.proc.alive():
		l.running()
	case c.fact.Status != "":
		l.fact("pid", l.proc.file("stat"), "%d does not run any more", c.fact.PID)
		l.find(strong, "start berthd, which takes note of the end", "the process is gone and nobody wrote down how it ended")
	}
	l.words()
}

// durations tell how long the creation took, stage by stage. The start is the
// client's call and all it waited for.
func (l processLayer) durations() {
	var stages []string
	for _, s := range l.ctr.Took {
		stages = append(stages, fmt.Sprintf("%s %s", s.Stage, time.Duration(s.Micros)*time.Microsecond))
	}
	if len(stages) > 0 {
		l.fact("took", filepath.Join(l.ctr.dir, "container.json"), "%s", strings.Join(stages, ", "))
	}
	if f := l.ctr.fact; !f.StartedAt.IsZero() {
		l.fact("start came", filepath.Join(l.ctr.dir, shimapi.RecordName), "%s after the creation", f.StartedAt.Sub(f.CreatedAt).Round(time.Microsecond))
	}
}

// end reads the reason of the end from the shim's record.
func (l processLayer) end(record string) {
	f := l.ctr.fact
	if !f.FinishedAt.IsZero() {
		l.fact("finished", record, "%s, after %s", f.FinishedAt.UTC().Format(time.RFC3339Nano), f.FinishedAt.Sub(f.StartedAt).Round(time.Millisecond))
	}
	if f.Message != "" {
		l.fact("message", record, "%s", f.Message)
	}
	switch {
	case f.Status != shimapi.StatusStopped:
		l.find(strong, "the kubelet starts it again", "the exit code was lost: the machine was started again, or the shim ended first")
	case f.Reason == shimapi.ReasonStartError:
		l.find(certain, "mend what the message names", "the container never started: %s", f.Message)
	case f.OOMKilled:
		l.find(certain, "raise the limit or make it use less", "the kernel killed it for memory, the limit is %s", l.ctr.memoryLimit())
	case f.Signal != 0:
		l.signal(unix.Signal(f.Signal))
	case f.ExitCode != 0:
		l.find(likely-1, "its last words are above", "it ended by itself with code %d%s", f.ExitCode, shellCode(f.ExitCode))
	}
}

// shellCode is what shells mean by their own codes (POSIX 2.8.2).
func shellCode(code int) string {
	switch {
	case code == 126:
		return " (of a shell: the command can't be executed)"
	case code == 127:
		return " (of a shell: no such command)"
	case code > 128 && code <= 128+64:
		return fmt.Sprintf(" (of a shell: its command was ended by %s)", unix.SignalName(unix.Signal(code-128)))
	}
	return ""
}

func (l processLayer) signal(s unix.Signal) {
	name := unix.SignalName(s)
	l.fact("signal", filepath.Join(l.ctr.dir, shimapi.RecordName), "%s", name)
	switch s {
	case unix.SIGSYS:
		l.find(certain, "look at the layer security; the kernel's log names the system call", "seccomp ended it for a system call that its profile forbids")
	case unix.SIGKILL:
		l.find(likely, "if nobody stopped it so, see the kernel's log", "it was killed: by a stop whose grace was over, or from outside")
	case unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP:
		l.find(possible, "nothing, if it was meant to stop", "it was asked to end by %s and did", name)
	default:
		l.find(strong, "it is a fault of the program, or of its architecture or memory", "it crashed with %s", name)
	}
}

func (l processLayer) running() {
	status, err := l.proc.status()
	if err != nil {
		l.unreadable("pid", l.proc.file("status"), err)
		return
	}
	l.fact("pid", l.proc.file("status"), "%s, inside %s; %s threads, state %s", status["Pid"], lastField(status["NSpid"]), status["Threads"], status["State"])
	if strings.HasPrefix(status["State"], "T") {
		l.find(likely, "send it SIGCONT", "it is stopped by a signal")
	}
	if strings.HasPrefix(status["State"], "D") {
		l.find(possible, "see "+l.proc.file("stack"), "it waits in the kernel, for a disk or a network file system")
	}
	l.zombies(lastField(status["NSpid"]) == "1")
}

// zombies are children that ended and were not waited for.
func (l processLayer) zombies(first bool) {
	children, err := l.proc.children()
	if err != nil {
		l.unreadable("children", l.proc.file("task"), err)
		return
	}
	dead := 0
	for _, pid := range children {
		if st, err := (process{pid: pid}).status(); err == nil && strings.HasPrefix(st["State"], "Z") {
			dead++
		}
	}
	l.fact("children", l.proc.file("task"), "%d, of which %d ended and are not reaped", len(children), dead)
	if first && dead >= manyZombies {
		l.find(possible, "use an init as first process, or a shared PID namespace, whose pause reaps", "the first process does not reap: %d zombies", dead)
	}
}

func lastField(s string) string {
	f := strings.Fields(s)
	if len(f) == 0 {
		return "?"
	}
	return f[len(f)-1]
}

// words are the last lines of the log, and what they hint at.
func (l processLayer) words() {
	path := l.ctr.LogPath
	if path == "" {
		l.fact("log", filepath.Join(l.ctr.dir, "container.json"), "none was asked for")
		return
	}
	lines, err := inTime(func() ([]string, error) { return tail(path, lastWords) })
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.fact("last words", path, "the file is not there")
		return
	case err != nil:
		l.unreadable("last words", path, err)
		return
	case len(lines) == 0:
		l.fact("last words", path, "none")
		return
	}
	l.Facts = append(l.Facts, Fact{Name: "last words", Value: "\n" + strings.Join(lines, "\n"), From: path, lines: lines})
	l.hear(lines)
}
