package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"berth/oci/atomicfile"
	"berth/oci/cgroup"
	"berth/oci/shimapi"
)

// handovers carries out the verbs by which one shim replaces another.
type handovers struct {
	registry   *registry
	pods       *pods
	containers *containers
}

// state gives a new daemon what create gave the previous one.
func (h handovers) state(c *call, r shimapi.IDRequest) (any, error) {
	if err := h.send(c, r.ID); err != nil {
		return nil, err
	}
	return nil, errAnswered
}

// states is state for all that the shim lists. A new daemon wants them all before it serves, and
// a call for each would take most of its start.
func (h handovers) states(c *call) (any, error) {
	held := h.pods.hub.list()
	for _, r := range append(held.Pods, held.Containers...) {
		if err := h.send(c, r.ID); err != nil {
			slog.Debug("a state for a handover is left out", "id", r.ID, "error", err)
		}
	}
	return nil, nil
}

// send answers with the state of a pod or container. The error is why there is none; that the
// client has hung up is none.
func (h handovers) send(c *call, id string) error {
	state, files, err := h.stateOf(id)
	if err != nil {
		return err
	}
	defer shimapi.CloseFiles(files)
	if err := c.answer(state, nil, files...); err != nil {
		slog.Debug("a state for a handover not sent", "id", id, "error", err)
	}
	return nil
}

// stateOf gives the state of a pod or container, and files for the caller to close.
func (h handovers) stateOf(id string) (shimapi.HandoverState, []*os.File, error) {
	if p, ok := h.registry.pod(id); ok {
		<-p.ready
		state := shimapi.HandoverState{ID: p.id, Dir: p.dir, NetNSPath: p.netns}
		if b := p.sandbox.Load(); b != nil {
			state.Sandbox = &b.request
		}
		return state, nil, nil
	}
	ctr, err := h.registry.container(id)
	if err != nil {
		return shimapi.HandoverState{}, nil, err
	}
	return ctr.handoverState()
}

// reportExit takes the exit status that the daemon collected of an adopted container.
func (h handovers) reportExit(_ *call, r shimapi.ReportExitRequest) (any, error) {
	ctr, err := h.registry.container(r.ID)
	if err != nil {
		return nil, err
	}
	ctr.process.report(r.Exit)
	return nil, nil
}

// handoverState describes the container to the shim that may replace this one, with
// duplicates of the files that keep its streams open. There are none after its end. A state
// without a file that there is would be worth nothing, so it is an error.
func (ctr *container) handoverState() (shimapi.HandoverState, []*os.File, error) {
	state := shimapi.HandoverState{
		ID: ctr.id, Pod: ctr.pod, Dir: ctr.dir, Command: ctr.command,
		Terminal: ctr.io.terminal, Stdin: ctr.stdin, StdinOnce: ctr.stdinOnce, Bundle: ctr.bundle,
	}
	if ctr.io.log != nil {
		state.LogRoot, state.LogPath, state.LogLimits = ctr.io.log.root, ctr.io.log.path, ctr.io.log.limits
	}
	var files []*os.File
	var errs []error
	add := func(name string, f *os.File) {
		switch f, err := duplicate(f); {
		case err != nil:
			errs = append(errs, fmt.Errorf("a duplicate of the %s of container %s: %w", name, ctr.id, err))
		case f != nil:
			state.Files, files = append(state.Files, name), append(files, f)
		}
	}
	if ctr.io.terminal && !ctr.io.fifos {
		add(shimapi.FileConsole, ctr.io.input())
	} else {
		add(shimapi.FileStdin, ctr.io.input())
		for _, st := range ctr.io.output() {
			add(st.name, st.source)
		}
	}
	add(shimapi.FilePidfd, ctr.process.file())
	if len(errs) > 0 {
		shimapi.CloseFiles(files)
		return state, nil, errors.Join(errs...)
	}
	return state, files, nil
}

// duplicate returns another descriptor of the same open file; nil: f is nil or closed.
func duplicate(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, nil //nolint:nilerr // f is nil
	}
	var fd int
	if raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) }) != nil {
		return nil, nil // f is closed
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// adopt takes over a pod or container of the dead shim that this one replaces.
func (h handovers) adopt(c *call, r shimapi.AdoptRequest) (any, error) {
	files := map[string]*os.File{}
	defer func() {
		for _, f := range files { // those that were not taken over
			_ = f.Close() // the daemon has its own
		}
	}()
	if len(r.Files) == len(c.files) {
		for i, name := range r.Files {
			files[name] = c.files[i]
		}
		c.files = nil
	}
	rec, err := lastRecord(r, h.pods.bootID)
	if err != nil {
		return nil, err
	}
	if r.Pod == "" {
		return nil, h.pods.adopt(r, rec)
	}
	return nil, h.containers.adopt(r, rec, files)
}

// lastRecord reads what the dead shim has recorded last. Only a record that surely can't be
// used is [shimapi.KindNotFound], which ends the container; one that can't be read may be
// readable later.
func lastRecord(r shimapi.AdoptRequest, bootID string) (rec shimapi.Record, err error) {
	path := filepath.Join(r.Dir, shimapi.RecordName)
	if err := atomicfile.DropCutOff(path); err != nil { // the shim before us may have been killed as it wrote
		slog.Warn("cut-off record stays", "id", r.ID, "error", err)
	}
	err = atomicfile.Read(path, &rec)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, atomicfile.ErrUnreadable):
		return rec, fault(shimapi.KindNotFound, "adopt %s: %w", r.ID, err)
	case err != nil:
		return rec, fmt.Errorf("adopt %s: %w", r.ID, err)
	case rec.ID != r.ID || rec.BootID != bootID:
		return rec, fault(shimapi.KindNotFound, "adopt %s: its record is of %q in boot %s", r.ID, rec.ID, rec.BootID)
	}
	return rec, nil
}

func (ps *pods) adopt(r shimapi.AdoptRequest, rec shimapi.Record) error {
	if rec.Status == shimapi.StatusStopped {
		return fault(shimapi.KindNotFound, "the pause of pod %s has ended", r.ID)
	}
	process, err := newAdopted(rec, nil)
	if err != nil {
		return err
	}
	process.patience = 0 // nobody needs the status of a pause process
	p := ps.newPod(r.ID, r.Dir, r.NetNSPath)
	p.process, p.pid, p.record = process, rec.PID, rec
	if r.Sandbox != nil {
		if err := ps.foreigns.adopt(p, *r.Sandbox); err != nil {
			return errors.Join(err, process.pidfd.Close())
		}
	}
	if err := claim(ps.registry, ps.registry.pods, r.ID, p); err != nil {
		return errors.Join(err, process.pidfd.Close())
	}
	p.publish(shimapi.EventStarted)
	close(p.ready)
	onEnd(p.process, p.supervise)
	return nil
}

func (cs *containers) adopt(r shimapi.AdoptRequest, rec shimapi.Record, files map[string]*os.File) error {
	ctr := cs.newContainer(r.ID, r.Pod, r.Dir)
	ctr.command, ctr.stdin, ctr.stdinOnce = r.Command, r.Stdin, r.StdinOnce
	ctr.adopted = true
	ctr.pid, ctr.groups, ctr.record = rec.PID, rec.CgroupPaths, rec
	ctr.ooms = newOOMCounter(rec.CgroupPaths)
	ctr.ooms.reported = rec.OOMKills
	if err := claim(cs.registry, cs.registry.containers, r.ID, ctr); err != nil {
		return err
	}
	defer close(ctr.ready)
	if err := cs.takeOver(ctr, r, files); err != nil {
		ctr.failed = true
		drop(cs.registry, cs.registry.containers, r.ID)
		return err
	}
	slog.Info("container adopted", "container", ctr.id, "pid", ctr.pid, "status", rec.Status)
	return nil
}

// takeOver loads the state of an adopted container and takes over its process and streams.
// It removes the files that it keeps from the map.
func (cs *containers) takeOver(ctr *container, r shimapi.AdoptRequest, files map[string]*os.File) error {
	if r.Bundle != "" {
		return cs.takeOverTask(ctr, r, files)
	}
	lc, err := libcontainer.Load(string(cs.state), ctr.id)
	if errors.Is(err, libcontainer.ErrNotExist) || isNoState(err) {
		return fault(shimapi.KindNotFound, "state of container %s: %w", ctr.id, err)
	}
	if err != nil {
		return fmt.Errorf("state of container %s: %w", ctr.id, err)
	}
	if ctr.record.Status == shimapi.StatusStopped {
		ctr.lc, ctr.process, ctr.io = lc, ended{}, &stdio{}
		cs.journal.forget(ctr.id)
		ctr.publish(shimapi.EventExited)
		close(ctr.done)
		ctr.removeCgroups(0) // the shim that has recorded the end may not have got to it
		return nil
	}
	if err := holdsStreams(r.Terminal, files); err != nil {
		return err
	}
	process, err := newAdopted(ctr.record, files[shimapi.FilePidfd])
	if err != nil {
		return err
	}
	delete(files, shimapi.FilePidfd)
	if r.Exit != nil {
		process.report(*r.Exit)
	}
	if ctr.io, err = inheritStdio(cs.adoptedLog(r), r.Terminal, files); err != nil {
		return errors.Join(err, process.pidfd.Close())
	}
	config := lc.Config()
	if ctr.parts, err = shareAdopted(&config); err != nil {
		slog.Warn("configuration of an adopted container takes more memory", "container", ctr.id, "error", err)
	}
	ctr.lc, ctr.process, ctr.tracer = lc, process, couldTrace(config)
	ctr.thawAdopted()
	cs.resume(ctr)
	return nil
}

// isNoState tells whether libcontainer has read a container's state, and it is none: the same
// would be read again.
func isNoState(err error) bool {
	_, syntax := errors.AsType[*json.SyntaxError](err)
	_, shape := errors.AsType[*json.UnmarshalTypeError](err)
	return syntax || shape || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// resume updates the record with what happened while there was no shim, and supervises the
// container from then on.
func (cs *containers) resume(ctr *container) {
	// libcontainer removes the fifo once it was opened; the shim may have died before that.
	started := ctr.record.Status == shimapi.StatusCreated && (!cs.state.hasFifo(ctr.id) || ctr.executed())
	stopOOM := cs.ooms.watchContainer(ctr)
	ctr.change(kindOf(ctr.record), func(rec *shimapi.Record) {
		if started {
			rec.Status, rec.StartedAt = shimapi.StatusRunning, time.Now()
		}
	})
	ctr.countOOMs()
	onEnd(ctr.process, func() { ctr.supervise(stopOOM) })
	go ctr.endLostSessions()
}

// endLostSessions kills the execs of the dead shim. Their clients have lost the connection
// that would have reported the exit.
func (ctr *container) endLostSessions() {
	parent := ctr.groups.dir()
	if parent == "" {
		return
	}
	dirs, _ := filepath.Glob(filepath.Join(parent, sessionPrefix+"*")) // no error with this pattern
	for _, dir := range dirs {
		if ctr.sessions.has(sessionOf(filepath.Base(dir))) {
			continue
		}
		if err := cgroup.Kill(dir, stopGrace, nil); err != nil {
			slog.Error("exec of a dead shim left processes", "container", ctr.id, "error", err)
		}
		(&subgroup{parent: parent, dir: dir}).remove()
	}
}

// holdsStreams returns an error if the files lack an output of the container: nobody could
// read that any more.
func holdsStreams(terminal bool, files map[string]*os.File) error {
	needed := []string{shimapi.FileStdout, shimapi.FileStderr}
	if terminal {
		needed = []string{shimapi.FileConsole}
	}
	for _, name := range needed {
		if files[name] == nil {
			return fault(shimapi.KindInvalid, "the container's %s is lost", name)
		}
	}
	return nil
}
