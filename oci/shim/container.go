package shim

import (
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/oci/cgroup"
	"berth/oci/shimapi"
)

const (
	// drainGrace is how long an ended container's streams may stay open without output.
	drainGrace = 3 * time.Second
	// initComm is the name (/proc/PID/comm) of a container's first process until it
	// executes its command.
	initComm = "runc:[2:INIT]"
)

// container is one container from create to delete.
type container struct {
	id, pod, dir     string
	command          string
	stdin, stdinOnce bool

	unwanted atomic.Bool   // it was deleted before it was ready
	ready    chan struct{} // closed when create has ended, well or not
	done     chan struct{} // closed when the exit is recorded

	// set by create, not read before ready
	failed  bool // the fields below are not set
	lc      *libcontainer.Container
	process process
	pid     int
	groups  group
	io      *stdio

	op sync.Mutex // start, update, delete; not held while waiting for done

	mu       sync.Mutex
	record   shimapi.Record
	ooms     *oomCounter
	oomsSeen uint64 // kills reported so far
	oomsBase uint64 // kills before the shim itself sent SIGKILL
	killed   bool   // the shim itself sent SIGKILL
	sessions map[string]*session
}

func (s *Server) create(c *call, r shimapi.CreateRequest) (any, error) {
	var spec specs.Spec
	if err := json.Unmarshal(r.Spec, &spec); err != nil {
		return nil, fault(shimapi.KindInvalid, "spec: %w", err)
	}
	r.Spec = nil
	if err := checkSpec(r, &spec); err != nil {
		return nil, err
	}
	ctr := &container{
		id: r.ID, pod: r.Pod, dir: r.Dir, command: spec.Process.Args[0], stdin: r.Stdin, stdinOnce: r.StdinOnce,
		ready: make(chan struct{}), done: make(chan struct{}), sessions: map[string]*session{},
	}
	if err := claim(s, s.containers, r.ID, ctr); err != nil {
		return nil, err
	}
	defer s.made(ctr)
	err := s.build(ctr, &spec, r)
	if err != nil {
		ctr.failed = true
		drop(s, s.containers, r.ID)
		failure := startFault(err)
		s.recordFailure(ctr, failure)
		return nil, failure
	}
	state, files := ctr.handoverState()
	defer shimapi.CloseFiles(files)
	ctr.mu.Lock()
	created := shimapi.CreateResponse{PID: ctr.pid, StartTime: ctr.record.StartTime, CgroupPaths: ctr.groups, Handover: &state}
	ctr.mu.Unlock()
	if err := c.answer(created, nil, files...); err != nil {
		slog.Debug("answer not delivered", "container", ctr.id, "error", err)
	}
	return nil, errAnswered
}

func checkSpec(r shimapi.CreateRequest, spec *specs.Spec) error {
	switch {
	case r.ID == "" || r.Pod == "" || r.Dir == "":
		return fault(shimapi.KindInvalid, "a container needs an ID, a pod and a directory")
	case spec.Process == nil || len(spec.Process.Args) == 0:
		return fault(shimapi.KindInvalid, "the spec names no command")
	case spec.Root == nil || !filepath.IsAbs(spec.Root.Path):
		return fault(shimapi.KindInvalid, "the spec's root.path must be absolute")
	case spec.Linux == nil:
		return fault(shimapi.KindInvalid, "the spec has no linux part")
	}
	if err := checkCgroupPath(spec.Linux.CgroupsPath, r.Systemd); err != nil {
		return fault(shimapi.KindInvalid, "%w", err)
	}
	return nil
}

// build runs libcontainer up to the exec fifo and starts to supervise the container. After
// an error nothing of the container is left.
func (s *Server) build(ctr *container, spec *specs.Spec, r shimapi.CreateRequest) error {
	go prepayRCU()
	config, err := libcontainerConfig(r.ID, spec, r.Systemd)
	if err != nil {
		return fault(shimapi.KindInvalid, "spec: %w", err)
	}
	owner, err := rootOwner(config)
	if err != nil {
		return fault(shimapi.KindInvalid, "spec: %w", err)
	}
	joined, err := s.joined(r.Pod, spec.Linux.Namespaces)
	if err != nil {
		return err
	}
	ctr.io, err = newStdio(r.LogRoot, r.LogPath, spec.Process.Terminal, r.Stdin, owner)
	if err != nil {
		return err
	}
	lc, err := libcontainer.Create(filepath.Join(s.config.Dir, "state"), r.ID, config)
	if err != nil {
		ctr.io.closeGiven()
		ctr.io.close()
		return err
	}
	if err := s.noteCgroup(r.ID, config.Cgroups); err != nil {
		slog.Warn("cgroup of a container not noted", "container", r.ID, "error", err)
	}
	err = s.launch(ctr, lc, spec)
	if err == nil {
		if err = stillLive(joined); err != nil {
			err = errors.Join(err, terminate(ctr.process))
		}
	}
	if err != nil {
		ctr.io.drain()
		ctr.io.close()
		return errors.Join(err, lc.Destroy())
	}
	ctr.lc = lc
	stopOOM := s.watchOOM(ctr)
	s.change(ctr, shimapi.EventCreated, func(*shimapi.Record) {})
	go s.supervise(ctr, stopOOM)
	return nil
}

func (s *Server) watchOOM(ctr *container) (stop func()) {
	stop, err := s.ooms.watch(ctr.groups, func() { s.countOOMs(ctr) })
	if err != nil {
		slog.Warn("OOM events are not watched", "container", ctr.id, "error", err)
		return func() {}
	}
	return stop
}

// launch starts the container's first process, unseen by the pod's tracers, and fills the
// record in.
func (s *Server) launch(ctr *container, lc *libcontainer.Container, spec *specs.Spec) (err error) {
	reveal, err := s.hide(ctr, spec)
	if err != nil {
		return err
	}
	defer func() { err = reveal(err) }()
	proc, err := libcontainerProcess(spec.Process)
	if err != nil {
		return fault(shimapi.KindInvalid, "spec: %w", err)
	}
	proc.Init = true
	console, err := startProcess(lc, proc, ctr.io.given, ctr.io.terminal)
	ctr.io.closeGiven()
	if err != nil {
		return err
	}
	ctr.pid, _ = proc.Pid() // no error: it was started
	ctr.process = newStarted(proc, ctr.pid)
	if console != nil {
		console, err = shimapi.Pollable(console)
		if err != nil {
			return errors.Join(err, terminate(ctr.process))
		}
		ctr.io.setConsole(console)
	}
	began, err := shimapi.StartTime(ctr.pid)
	if err != nil {
		return errors.Join(err, terminate(ctr.process))
	}
	state, err := lc.State()
	if err != nil {
		return errors.Join(err, terminate(ctr.process))
	}
	ctr.groups = maps.Clone(state.CgroupPaths) // libcontainer empties its own map when it destroys the container
	ctr.ooms = newOOMCounter(ctr.groups)
	ctr.record = shimapi.Record{
		Version: recordVersion, ID: ctr.id, Pod: ctr.pod, Status: shimapi.StatusCreated, BootID: s.bootID,
		PID: ctr.pid, StartTime: began, CgroupPaths: ctr.groups, CreatedAt: time.Now(),
	}
	return nil
}

// startProcess starts the first process of a container, or an exec. files are its stdin,
// stdout and stderr, where nil is /dev/null; with a terminal it returns the master instead.
func startProcess(lc *libcontainer.Container, proc *libcontainer.Process, files []*os.File, terminal bool) (*os.File, error) {
	var console *net.UnixConn
	switch {
	case terminal:
		var err error
		if console, proc.ConsoleSocket, err = consoleSockets(); err != nil {
			return nil, err
		}
		defer func() { _, _ = console.Close(), proc.ConsoleSocket.Close() }() // the master is a file of its own
	case len(files) == 3:
		if files[0] != nil {
			proc.Stdin = files[0]
		}
		proc.Stdout, proc.Stderr = files[1], files[2]
	}
	watch := watchStart()
	err := lc.Start(proc)
	watch.end(err)
	if err != nil || !terminal {
		return nil, err
	}
	// The process has sent it before Start returned.
	master, err := receiveConsole(console)
	if err != nil {
		pid, _ := proc.Pid() // no error: it was started
		return nil, errors.Join(err, terminate(newStarted(proc, pid)))
	}
	return master, nil
}

// recordFailure writes a record which says that the container never ran.
func (s *Server) recordFailure(ctr *container, err error) {
	now := time.Now()
	saveRecord(ctr.dir, shimapi.Record{
		Version: recordVersion, ID: ctr.id, Pod: ctr.pod, Status: shimapi.StatusStopped, BootID: s.bootID,
		CreatedAt: now, FinishedAt: now, ExitCode: shimapi.CodeStartError, Reason: shimapi.ReasonStartError, Message: err.Error(),
	})
}

// container finds a container that was created, and waits for the end of its creation.
func (s *Server) container(id string) (*container, error) {
	ctr, ok := held(s, s.containers, id)
	if ok {
		<-ctr.ready
	}
	if !ok || ctr.failed {
		return nil, fault(shimapi.KindNotFound, "this shim holds no container %s", id)
	}
	return ctr, nil
}

// running finds a container that has not ended.
func (s *Server) running(id string) (*container, error) {
	ctr, err := s.container(id)
	if err != nil {
		return nil, err
	}
	if ctr.status() == shimapi.StatusStopped {
		return nil, fault(shimapi.KindNotRunning, "container %s has ended", id)
	}
	return ctr, nil
}

func (ctr *container) status() shimapi.Status {
	ctr.mu.Lock()
	defer ctr.mu.Unlock()
	return ctr.record.Status
}

// change changes the record, writes it to disk and publishes it as an event.
func (s *Server) change(ctr *container, kind string, alter func(*shimapi.Record)) {
	ctr.mu.Lock()
	defer ctr.mu.Unlock()
	alter(&ctr.record)
	saveRecord(ctr.dir, ctr.record)
	s.hub.publish(kind, ctr.record)
}

func (s *Server) start(r shimapi.IDRequest) (any, error) {
	ctr, err := s.running(r.ID)
	if err != nil {
		return nil, err
	}
	ctr.op.Lock()
	defer ctr.op.Unlock()
	if st := ctr.status(); st != shimapi.StatusCreated {
		return nil, fault(shimapi.KindNotRunning, "container %s is %s, not created", r.ID, st)
	}
	started := time.Now() // taken before, because the command may end before Exec returns
	if err := s.openFifo(ctr); err != nil {
		s.releaseFifo(ctr.id)
		return nil, fault(shimapi.KindStartFailed, "start container: %w", err)
	}
	ctr.awaitCommand()
	s.change(ctr, shimapi.EventStarted, func(rec *shimapi.Record) {
		rec.Status, rec.StartedAt = shimapi.StatusRunning, started
	})
	return nil, nil
}

// commandPatience is how long a start waits for the command to be executed.
const commandPatience = 500 * time.Millisecond

// awaitCommand returns when the first process has executed its command, or has ended.
// libcontainer returns earlier. Until the exec the process is not dumpable, so a postStart
// hook that opens /proc/1/fd/1 would fail. There is no event for an exec; the name of the
// process changes last, after its dumpability (begin_new_exec in fs/exec.c).
func (ctr *container) awaitCommand() {
	for deadline := time.Now().Add(commandPatience); time.Now().Before(deadline) && ctr.process.alive() && comm(ctr.pid) == initComm; {
		time.Sleep(50 * time.Microsecond)
	}
}

// releaseFifo opens the fifo for writing and closes it. If the container's process has died,
// libcontainer leaves a goroutine blocked in open(2) for reading, which this ends.
func (s *Server) releaseFifo(id string) {
	fifo := filepath.Join(s.config.Dir, "state", id, "exec.fifo")
	if fd, err := unix.Open(fifo, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
		_ = unix.Close(fd) // the open has woken the reader
	}
}

// supervise waits for the end of a container and records it.
func (s *Server) supervise(ctr *container, stopOOM func()) {
	exit := ctr.process.wait()
	if err := ctr.groups.killAll(); err != nil {
		slog.Error("container left processes", "container", ctr.id, "error", err)
	}
	stopOOM()
	kills := ctr.ooms.kills()
	ctr.io.drain()
	ctr.op.Lock() // a start under way is recorded first
	s.change(ctr, shimapi.EventExited, func(rec *shimapi.Record) {
		started := rec.Status == shimapi.StatusRunning
		setExit(rec, exit.ExitStatus)
		if exit.lost {
			rec.Reason, rec.Message = shimapi.ReasonUnknown, unknownMessage
		}
		rec.OOMKills = kills
		rec.OOMKilled = ctr.outOfMemory(rec, kills)
		if exit.neverRan && started && rec.ExitCode == shimapi.CodeUnknown {
			rec.ExitCode, rec.Reason = shimapi.CodeStartError, shimapi.ReasonStartError
			rec.Message = ctr.execFailure()
		}
	})
	ctr.op.Unlock()
	ctr.io.close()
	close(ctr.done)
}

// execFailure is why the kernel refused to execute the command. The container's first
// process has written it to the container's stderr, its only connection by then.
func (ctr *container) execFailure() string {
	said := strings.TrimSpace(ctr.io.firstOutput())
	if said == "" {
		return "command " + ctr.command + " could not be executed"
	}
	return strings.TrimPrefix(said, "exec ")
}

// countOOMs publishes an event if the OOM killer has killed since the last one.
func (s *Server) countOOMs(ctr *container) {
	kills := ctr.ooms.kills()
	ctr.mu.Lock()
	fresh := kills > ctr.oomsSeen && ctr.record.Status == shimapi.StatusRunning
	if fresh {
		ctr.oomsSeen = kills
	}
	ctr.mu.Unlock()
	if fresh {
		s.change(ctr, shimapi.EventOOM, func(rec *shimapi.Record) { rec.OOMKills = max(rec.OOMKills, kills) })
	}
}

func (s *Server) kill(r shimapi.KillRequest) (any, error) {
	ctr, err := s.running(r.ID)
	if err != nil {
		return nil, err
	}
	if r.Signal < 0 || r.Signal > 64 {
		return nil, fault(shimapi.KindInvalid, "%d is no signal's number", r.Signal)
	}
	sig := syscall.Signal(r.Signal)
	if r.ExecID != "" {
		return nil, ctr.killSession(r.ExecID, sig, r.All)
	}
	return nil, ctr.signal(sig, r.All)
}

func (ctr *container) signal(sig syscall.Signal, all bool) error {
	if sig == unix.SIGKILL {
		// Earlier kills by the OOM killer are not the reason of this death.
		kills := ctr.ooms.kills()
		ctr.mu.Lock()
		ctr.oomsBase, ctr.killed = kills, true
		ctr.mu.Unlock()
	}
	if all && sig != unix.SIGKILL {
		return cgroup.Signal(ctr.groups.dir(), sig)
	}
	err := ctr.process.signal(sig)
	if all {
		return ctr.groups.killAll()
	}
	if isGone(err) {
		return fault(shimapi.KindNotRunning, "container %s has ended", ctr.id)
	}
	return err
}

// delete kills what is left of a container and removes everything of it but its record.
func (s *Server) delete(r shimapi.IDRequest) (any, error) {
	if unfinished, ok := held(s, s.containers, r.ID); ok && !s.abortCreate(unfinished) {
		return nil, nil
	}
	ctr, err := s.container(r.ID)
	if err != nil {
		return nil, s.deleteRest(r.ID) // an unknown container is no error
	}
	if ctr.status() != shimapi.StatusStopped {
		if err := ctr.signal(unix.SIGKILL, true); err != nil {
			return nil, err
		}
	}
	select {
	case <-ctr.done:
	case <-time.After(stopGrace):
		return nil, fault(shimapi.KindInternal, "container %s does not end by SIGKILL", r.ID)
	}
	ctr.op.Lock()
	defer ctr.op.Unlock()
	if _, ok := held(s, s.containers, r.ID); !ok {
		return nil, nil // another call has deleted it
	}
	if err := ctr.groups.killAll(); err != nil {
		return nil, err
	}
	if err := ctr.lc.Destroy(); err != nil {
		return nil, err
	}
	s.hub.forget(r.ID)
	drop(s, s.containers, r.ID)
	return nil, nil
}
