package shim

import (
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
	"github.com/opencontainers/runc/libcontainer/configs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/oci/cgroup"
	"berth/oci/procfs"
	"berth/oci/shim/mountns"
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
	recorder
	id, pod          string
	command          string
	stdin, stdinOnce bool

	unwanted atomic.Bool   // it was deleted before it was ready
	ready    chan struct{} // closed when create has ended, well or not
	done     chan struct{} // closed when the exit is recorded

	// set by create, not read before ready
	failed  bool                    // the fields below are not set
	adopted bool                    // it was created by a shim before this one
	lc      *libcontainer.Container // nil: a foreign shim has made it
	parts   parts                   // of the configuration of lc
	tracer  bool                    // see isTracer
	process process
	pid     int
	groups  group
	io      *stdio
	ooms    *oomCounter
	// poststart are hooks that were not run yet. A shim that takes over a container before
	// its start does not know them.
	poststart configs.HookList

	// of a container that a foreign shim has made, see task.go
	task      Task
	sandbox   *sandbox // of its pod
	bundle    string
	asked     string              // the cgroupsPath of its spec
	fifos     *fifoSet            // nil: the shim has opened its ends
	reclaimed atomic.Bool         // the foreign shim was gone, and what it left was ended
	lost      func() (end, error) // ends by the shim's program what a foreign shim that is gone has left

	op       sync.Mutex // start, update, delete; not held while waiting for done
	sessions sessions
}

// containers carries out the verbs of containers, except those of their streams and execs.
type containers struct {
	registry *registry
	hub      *hub
	ooms     *oomWatcher
	state    stateDir
	bootID   string
	foreign  Foreign           // nil: there are no foreign shims
	template *mountns.Template // what containers are cloned from; nil: the host's mounts
	journal  *journal          // of the logs; nil: there is none
}

func (cs *containers) newContainer(id, pod, dir string) *container {
	return &container{recorder: recorder{hub: cs.hub, dir: dir}, id: id, pod: pod, ready: make(chan struct{}), done: make(chan struct{})}
}

// newLog is where the log of a new container goes.
func (cs *containers) newLog(r shimapi.CreateRequest) logTarget {
	to := logTarget{root: r.LogRoot, path: r.LogPath, limits: r.LogLimits}
	if to.path != "" {
		to.entry = cs.journal.enter(r.ID)
	}
	return to
}

// adoptedLog is where the log of a container goes that another shim has made.
func (cs *containers) adoptedLog(r shimapi.AdoptRequest) logTarget {
	to := logTarget{root: r.LogRoot, path: r.LogPath, limits: r.LogLimits}
	if to.path != "" {
		to.entry = cs.journal.inherit(r.ID)
	}
	return to
}

// isMade reports whether create has ended well.
func (ctr *container) isMade() bool { return isClosed(ctr.ready) && !ctr.failed }

func (cs *containers) create(c *call, r shimapi.CreateRequest) (any, error) {
	spec, profile, err := readSpec(r.Spec)
	if err != nil {
		return nil, fault(shimapi.KindInvalid, "spec: %w", err)
	}
	r.Spec = profile // all that is left to be read of it
	if err := checkSpec(r, spec); err != nil {
		return nil, err
	}
	ctr := cs.newContainer(r.ID, r.Pod, r.Dir)
	ctr.command, ctr.stdin, ctr.stdinOnce = spec.Process.Args[0], r.Stdin, r.StdinOnce
	if err := claim(cs.registry, cs.registry.containers, r.ID, ctr); err != nil {
		return nil, err
	}
	defer cs.made(ctr)
	if b := cs.sandboxOf(r.Pod); b != nil {
		err = cs.buildTask(ctr, b, spec, r)
	} else {
		err = cs.buildWhole(ctr, spec, r, c.stages)
	}
	if err != nil {
		ctr.failed = true
		drop(cs.registry, cs.registry.containers, r.ID)
		failure := startFault(err)
		cs.recordFailure(ctr, failure)
		return nil, failure
	}
	created := shimapi.CreateResponse{PID: ctr.pid, StartTime: ctr.current().StartTime, CgroupPaths: ctr.groups}
	state, files, err := ctr.handoverState()
	if err == nil {
		created.Handover = &state
	} else {
		slog.Warn("files for a handover not given", "container", ctr.id, "error", err)
	}
	defer shimapi.CloseFiles(files)
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
func (cs *containers) build(ctr *container, spec *specs.Spec, r shimapi.CreateRequest, st *stages) error {
	end := st.begin("prepare")
	go prepayRCU()
	config, err := libcontainerConfig(r.ID, spec, r.Systemd)
	if err != nil {
		return fault(shimapi.KindInvalid, "spec: %w", err)
	}
	if ctr.parts, err = shareParts(config, r.Spec); err != nil {
		return fault(shimapi.KindInvalid, "spec: %w", err)
	}
	ctr.poststart = takeHooks(config, configs.Poststart)
	config.Cgroups.SystemdProps = append(config.Cgroups.SystemdProps, scopeProperties(r.Scope)...)
	owner, err := rootOwner(config)
	if err != nil {
		return fault(shimapi.KindInvalid, "spec: %w", err)
	}
	joined, err := cs.registry.joined(r.Pod, spec.Linux.Namespaces)
	if err != nil {
		return err
	}
	ctr.io, err = newStdio(cs.newLog(r), spec.Process.Terminal, r.Stdin, owner)
	if err != nil {
		return err
	}
	lc, err := libcontainer.Create(string(cs.state), r.ID, config)
	if err != nil {
		ctr.io.closeGiven()
		ctr.io.close()
		return err
	}
	if err := cs.state.noteCgroup(r.ID, config.Cgroups); err != nil {
		slog.Warn("cgroup of a container not noted", "container", r.ID, "error", err)
	}
	end()
	end = st.begin("init process")
	err = cs.launch(ctr, lc, spec, relocate(cs.template, config))
	end()
	if err == nil {
		if err = stillLive(joined); err != nil {
			err = errors.Join(err, terminate(ctr.process))
		}
	}
	if err != nil {
		ctr.io.drain()
		ctr.io.close()
		return errors.Join(err, destroy(lc))
	}
	forgetMade(config)
	ctr.lc, ctr.tracer = lc, mayTrace(spec)
	stopOOM := cs.ooms.watchContainer(ctr)
	ctr.change(shimapi.EventCreated, func(*shimapi.Record) {})
	onEnd(ctr.process, func() { ctr.supervise(stopOOM) })
	return nil
}

// launch starts the container's first process, unseen by the pod's tracers, and fills the
// record in.
func (cs *containers) launch(ctr *container, lc *libcontainer.Container, spec *specs.Spec, where *relocation) (err error) {
	reveal, err := cs.hide(ctr, spec)
	if err != nil {
		return err
	}
	defer func() {
		made := err == nil
		if err = reveal(err); made && err != nil { // it came too late and has killed the container
			err = errors.Join(err, terminate(ctr.process))
		}
	}()
	proc, err := libcontainerProcess(spec.Process)
	if err != nil {
		return fault(shimapi.KindInvalid, "spec: %w", err)
	}
	proc.Init, proc.Capabilities = true, ctr.parts.capabilities
	var console *os.File
	err = where.start(func() (err error) {
		console, err = startProcess(lc, proc, ctr.io.given, ctr.io.terminal)
		return err
	})
	ctr.io.closeGiven()
	if err != nil {
		return err
	}
	// libcontainer keeps them for as long as the container.
	clear(proc.Args)
	clear(proc.Env)
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
		Version: recordVersion, ID: ctr.id, Pod: ctr.pod, Status: shimapi.StatusCreated, BootID: cs.bootID,
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

func (cs *containers) start(c *call, r shimapi.IDRequest) (any, error) {
	ctr, err := cs.registry.running(r.ID)
	if err != nil {
		return nil, err
	}
	if err := cs.execute(ctr, c.stages); err != nil {
		return nil, err
	}
	return nil, ctr.runPoststart()
}

// execute lets the container execute its command.
func (cs *containers) execute(ctr *container, stages *stages) error {
	ctr.op.Lock()
	defer ctr.op.Unlock()
	if st := ctr.status(); st != shimapi.StatusCreated {
		return fault(shimapi.KindNotRunning, "container %s is %s, not created", ctr.id, st)
	}
	if p, ok := cs.registry.pod(ctr.pod); ok && ctr.isTracer() {
		// No container of its pod may be created while it starts.
		p.tracers.starting.Lock()
		defer p.tracers.starting.Unlock()
	}
	if ctr.task != nil {
		return ctr.startTask()
	}
	started := time.Now() // taken before, because the command may end before Exec returns
	end := stages.begin("execute")
	err := cs.openFifo(ctr)
	end()
	if err != nil {
		cs.state.releaseFifo(ctr.id)
		return fault(shimapi.KindStartFailed, "start container: %w", err)
	}
	patience := commandPatience
	if len(ctr.poststart) > 0 { // which must not run earlier, and a startContainer hook may take its time
		patience = hookTime
	}
	end = stages.begin("await command")
	ctr.awaitCommand(patience)
	end()
	ctr.change(shimapi.EventStarted, func(rec *shimapi.Record) {
		rec.Status, rec.StartedAt = shimapi.StatusRunning, started
	})
	return nil
}

// openFifo lets the first process go on, which waits at its fifo. That of an adopted
// container may have gone on already, by the last act of the shim before this one.
func (cs *containers) openFifo(ctr *container) error {
	held, err := cs.state.emptyFifo(ctr.id)
	if held || err != nil {
		return err
	}
	if ctr.executed() {
		return nil
	}
	if !ctr.adopted {
		return ctr.lc.Exec()
	}
	return cs.openAdoptedFifo(ctr)
}

// openAdoptedFifo opens the fifo of a container that an older shim has created. Its process
// may have gone on already: libcontainer would wait for it for ever.
func (cs *containers) openAdoptedFifo(ctr *container) error {
	opened := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		ctr.awaitCommand(hookTime)
		select {
		case <-opened:
		case <-time.After(commandPatience):
			cs.state.releaseFifo(ctr.id)
		}
	})
	err := ctr.lc.Exec()
	close(opened)
	watch.Wait()
	if ctr.executed() {
		return nil // whoever has opened it
	}
	return err
}

// executed tells that the first process is there, and has executed its command.
func (ctr *container) executed() bool {
	name := procfs.Name(ctr.pid)
	return name != "" && name != initComm
}

// commandPatience is how long a start without hooks waits for the command to be executed.
const commandPatience = 500 * time.Millisecond

// awaitCommand returns when the first process has executed its command, or has ended.
// libcontainer returns earlier. Until the exec the process is not dumpable, so a postStart
// hook that opens /proc/1/fd/1 would fail. There is no event for an exec; the name of the
// process changes last, after its dumpability (begin_new_exec in fs/exec.c).
func (ctr *container) awaitCommand(patience time.Duration) {
	pause := 50 * time.Microsecond
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && ctr.process.alive() && procfs.Name(ctr.pid) == initComm; {
		time.Sleep(pause)
		pause = min(pause+pause/16, 5*time.Millisecond)
	}
}

// supervise waits for the end of a container and records it.
func (ctr *container) supervise(stopOOM func()) {
	exit := ctr.process.wait()
	ctr.releaseFifos()
	emptied := stopGrace
	if err := ctr.groups.killAll(); err != nil {
		slog.Error("container left processes", "container", ctr.id, "error", err)
		emptied = 0
	}
	stopOOM()
	kills, refused := ctr.ooms.kills(), ctr.groups.refusedForks()
	ctr.io.drain()
	ctr.op.Lock() // a start under way is recorded first
	ctr.change(shimapi.EventExited, func(rec *shimapi.Record) {
		started := rec.Status == shimapi.StatusRunning
		setExit(rec, exit.ExitStatus)
		if exit.lost {
			rec.Reason, rec.Message = shimapi.ReasonUnknown, unknownMessage
		}
		rec.OOMKills, rec.RefusedForks = kills, refused
		rec.OOMKilled = ctr.ooms.explains(exit.ExitStatus, kills)
		if exit.neverRan && started && rec.ExitCode == shimapi.CodeUnknown {
			rec.ExitCode, rec.Reason = shimapi.CodeStartError, shimapi.ReasonStartError
			rec.Message = ctr.execFailure()
		}
	})
	ctr.io.close()
	close(ctr.done)
	if ctr.isSavedOr(ctr.removeCgroupsLate) {
		ctr.removeCgroups(emptied)
	}
	ctr.op.Unlock() // a deletion comes after it, and with it another container of the same ID
}

// removeCgroups removes the cgroups of a container whose end is recorded. One whose foreign shim
// is gone is only taken for ended when the shim's program can't be asked, and is still looked for
// by its cgroup.
func (ctr *container) removeCgroups(within time.Duration) {
	if ctr.task == nil || ctr.reclaimed.Load() || ctr.current().EndIsTold() {
		ctr.cgroups().removeEmptied(within)
	}
}

// removeCgroupsLate is removeCgroups once a record was written late: until then a shim after this
// one would have needed their counters.
func (ctr *container) removeCgroupsLate() {
	ctr.op.Lock()
	defer ctr.op.Unlock()
	ctr.removeCgroups(stopGrace)
}

// cgroups are those that were made for the container alone.
func (ctr *container) cgroups() group {
	if ctr.task != nil && len(ctr.groups) == 0 {
		return groupsAt(ctr.asked)
	}
	return ctr.groups
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

// countOOMs publishes an event if the OOM killer has killed since the last one. The container
// may end while its counter is read, and be deleted; its end then tells of the kills.
func (ctr *container) countOOMs() {
	if ctr.status() != shimapi.StatusRunning {
		return
	}
	if kills, more := ctr.ooms.fresh(); more {
		ctr.changeIf(shimapi.EventOOM, func(rec *shimapi.Record) bool {
			if rec.Status != shimapi.StatusRunning {
				return false
			}
			rec.OOMKills = max(rec.OOMKills, kills)
			return true
		})
	}
}

func (cs *containers) kill(_ *call, r shimapi.KillRequest) (any, error) {
	ctr, err := cs.registry.running(r.ID)
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
		ctr.ooms.noteKill()
	}
	if ctr.task != nil {
		return ctr.signalTask(sig, all)
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

// end kills all of a container and waits until its end is recorded.
func (ctr *container) end() error {
	if ctr.status() != shimapi.StatusStopped {
		if err := ctr.signal(unix.SIGKILL, true); err != nil {
			return err
		}
	}
	select {
	case <-ctr.done:
		return nil
	case <-time.After(stopGrace):
		return fault(shimapi.KindInternal, "container %s does not end by SIGKILL", ctr.id)
	}
}

// destroy removes what the runtime keeps of a container that has ended.
func (ctr *container) destroy() error {
	if ctr.task != nil {
		return ctr.deleteTask()
	}
	if ctr.adopted {
		// One that was frozen when it was loaded counts as frozen until libcontainer looks again,
		// and can't be thawed without the cgroup, which has gone with its end.
		_, _ = ctr.lc.Status() // what keeps it from looking, the destruction tells of
	}
	return destroy(ctr.lc)
}

// delete kills what is left of a container and removes everything of it but its record.
func (cs *containers) delete(_ *call, r shimapi.IDRequest) (any, error) {
	if unfinished, ok := held(cs.registry, cs.registry.containers, r.ID); ok && !cs.abortCreate(unfinished) {
		return nil, nil
	}
	ctr, err := cs.registry.container(r.ID)
	if err != nil {
		cs.journal.forget(r.ID)
		return nil, cs.state.deleteRest(r.ID) // an unknown container is no error
	}
	if err := ctr.end(); err != nil {
		return nil, err
	}
	ctr.op.Lock()
	defer ctr.op.Unlock()
	if _, ok := held(cs.registry, cs.registry.containers, r.ID); !ok {
		return nil, nil // another call has deleted it
	}
	if err := ctr.groups.killAll(); err != nil {
		return nil, err
	}
	if err := ctr.destroy(); err != nil {
		return nil, err
	}
	cs.hub.forget(r.ID)
	drop(cs.registry, cs.registry.containers, r.ID)
	return nil, nil
}
