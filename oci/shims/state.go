package shims

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// handover is what a replacement of the shim would need of one pod or container: its
// state, and duplicates of at most four descriptors. Its fields are guarded by Set.mu.
type handover struct {
	shimapi.HandoverState
	streams map[string]stream
	pidfd   *os.File
	exit    *shimapi.ExitStatus // set when we, as subreaper, have collected it
	holder  *process            // the process of the shim that has the pod or container, or has adopted it last

	reaping bool // a goroutine waits with the pidfd
	closing bool // that goroutine closes the pidfd when it is done

	// unadoptedSince is when the first of the adoptions was tried that have failed in a row for a
	// reason of its own, see [handover.isOverdue]. It is the hand-over's alone.
	unadoptedSince time.Time
}

// stream keeps a stream of a container open. It is a plain descriptor number: an [os.File]
// would be registered with Go's poller, and every output of the container would wake us. The
// file itself, if not nil, is kept where there was no descriptor for a duplicate.
type stream struct {
	fd   int
	file *os.File
}

// newStream takes over a file.
func newStream(f *os.File) stream {
	fd, err := duplicate(f)
	if err != nil {
		return stream{file: f}
	}
	_ = f.Close() // the duplicate is kept
	return stream{fd: fd}
}

func (st stream) duplicate() (fd int, err error) {
	if st.file != nil {
		return duplicate(st.file)
	}
	return unix.FcntlInt(uintptr(st.fd), unix.F_DUPFD_CLOEXEC, 3)
}

func (st stream) close() {
	if st.file != nil {
		_ = st.file.Close() // the shim has its own
		return
	}
	_ = unix.Close(st.fd) // the same
}

// keep stores what a replacement of p would need of a pod or container. It takes over
// the files.
func (sh *Shim) keep(p *process, state shimapi.HandoverState, files []*os.File) {
	sh.set.mu.Lock()
	defer sh.set.mu.Unlock()
	sh.keepLocked(p, state, files)
}

func (sh *Shim) keepLocked(p *process, state shimapi.HandoverState, files []*os.File) {
	sh.handover.drop(state.ID)
	if sh.set.ctx.Err() != nil { // Close has closed all that were kept
		shimapi.CloseFiles(files)
		return
	}
	sh.handover[state.ID] = newHandover(p, state, files)
}

// newHandover takes over the files.
func newHandover(p *process, state shimapi.HandoverState, files []*os.File) *handover {
	h := &handover{HandoverState: state, streams: map[string]stream{}, holder: p}
	h.Files = nil
	for i, f := range files {
		switch {
		case i >= len(state.Files):
			_ = f.Close() // a duplicate without a name
		case state.Files[i] == shimapi.FilePidfd:
			h.pidfd = f
		default:
			h.streams[state.Files[i]] = newStream(f)
		}
	}
	return h
}

// duplicate returns another descriptor of the same open file.
func duplicate(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	cerr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) })
	return fd, errors.Join(cerr, err)
}

// handovers has what a replacement of one shim would need, by ID of pod or container. It is
// guarded by Set.mu.
type handovers map[string]*handover

func (all handovers) drop(id string) {
	if h := all[id]; h != nil {
		h.closeFiles()
		delete(all, id)
	}
}

func (all handovers) dropAll() {
	for id := range all {
		all.drop(id)
	}
}

func (h *handover) closeFiles() {
	for name := range h.streams {
		h.closeStream(name)
	}
	switch {
	case h.reaping:
		h.closing = true
	case h.pidfd != nil:
		_ = h.pidfd.Close() // nothing is buffered
		h.pidfd = nil
	}
}

func (h *handover) closeStream(name string) {
	if st, ok := h.streams[name]; ok {
		st.close()
		delete(h.streams, name)
	}
}

// onEvent updates what is kept of the pod or container that an event is about: its
// files are closed when it has ended, and requested when a shim of a previous daemon
// names it in its replay.
func (p *process) onEvent(e shimapi.Event) {
	sh, s := p.shim, p.shim.set
	id := e.Record.ID
	s.mu.Lock()
	h := sh.handover[id]
	switch {
	case h == nil:
	case e.Record.Status == shimapi.StatusStopped && e.Record.Pod == "":
		sh.handover.drop(id)
	case e.Record.Status == shimapi.StatusStopped:
		h.closeFiles() // its libcontainer state and cgroup stay until it is deleted
	case e.Record.StdinClosed:
		h.closeStream(shimapi.FileStdin) // or the container would not see the end of its input
	}
	s.mu.Unlock()
	if h == nil && e.Replay {
		p.requestState(s.ctx, id)
	}
}

// ask asks a shim of a previous daemon what it holds, which is returned, and for what a
// replacement of it would need, until ctx ends.
func (p *process) ask(ctx context.Context) ([]shimapi.Record, error) {
	var held shimapi.ListResponse
	c := p.dial(ctx)
	c.WriteRequest(shimapi.MethodList, struct{}{})
	if err := c.answer(ctx, &held); err != nil {
		return nil, err
	}
	p.shim.holds(held.Pods)
	all := append(held.Pods, held.Containers...)
	p.requestStates(ctx, all)
	return all, nil
}

// holds notes the pods that the shim was given by a previous daemon.
func (sh *Shim) holds(pods []shimapi.Record) {
	sh.set.mu.Lock()
	defer sh.set.mu.Unlock()
	for _, pod := range pods {
		sh.pods[pod.ID] = struct{}{}
	}
}

// statesTogether is how many states are requested side by side.
const statesTogether = 8

// requestStates requests the states of what a shim of a previous daemon holds, until ctx
// ends: from then on the shim may die. The replay of its events would bring them too, but
// one after the other, and no faster than the events are read. One call brings them all but
// those that the shim, or we, could not make descriptors for; of a shim that is too old for
// that call each is requested by itself.
func (p *process) requestStates(ctx context.Context, held []shimapi.Record) {
	if len(held) == 0 {
		return
	}
	missing := p.receiveStates(ctx, held)
	var wait sync.WaitGroup
	slots := make(chan struct{}, statesTogether)
	for _, r := range held {
		if !missing[r.ID] {
			continue
		}
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			p.requestState(ctx, r.ID)
		})
	}
	wait.Wait()
}

// receiveStates makes the call for all states and returns the IDs, of those that are held, whose
// states have not come.
func (p *process) receiveStates(ctx context.Context, held []shimapi.Record) map[string]bool {
	missing := make(map[string]bool, len(held))
	for _, r := range held {
		missing[r.ID] = true
	}
	c := p.dial(ctx)
	defer c.close()
	c.WriteRequest(shimapi.MethodHandoverStates, struct{}{})
	for {
		var state shimapi.HandoverState
		// Not receive: whatever ends this call, the others tell why.
		files, err := c.ReadResponse(&state)
		if err != nil || !missing[state.ID] { // the last response has no ID
			shimapi.CloseFiles(files)
			return missing
		}
		p.shim.keep(p, state, files)
		delete(missing, state.ID)
	}
}

// requestState asks the shim for the state and files that it gave the previous daemon, or
// could not give with its answer to create. Where it or we lack descriptors, it is asked
// again in the background. A shim that is too old to know this call can't be replaced.
func (p *process) requestState(ctx context.Context, id string) {
	if err := p.receiveState(ctx, id); !IsShortage(err) {
		return
	}
	s := p.shim.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil { // Close waits for no new task
		return
	}
	s.tasks.Go(func() {
		err := error(unix.EAGAIN)
		for delay := firstDelay; IsShortage(err) && s.ctx.Err() == nil && !p.isGone(); delay = min(2*delay, lastDelay) {
			p.waitIfDying(s.ctx, delay)
			err = p.receiveState(s.ctx, id)
		}
	})
}

// receiveState is one try of requestState.
func (p *process) receiveState(ctx context.Context, id string) error {
	c := p.dial(ctx)
	defer c.close()
	c.WriteRequest(shimapi.MethodHandoverState, shimapi.IDRequest{ID: id})
	var state shimapi.HandoverState
	files, err := c.receive(ctx, &state)
	if err == nil {
		p.shim.keep(p, state, files)
	}
	return err
}

// sendTo makes another process of the shim adopt the pod or container.
func (h *handover) sendTo(ctx context.Context, p *process) error {
	s := p.shim.set
	s.mu.Lock()
	r := shimapi.AdoptRequest{HandoverState: h.HandoverState, Exit: h.exit}
	var files []*os.File
	var errs []error
	add := func(name string, fd int, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("a duplicate of the %s of %s: %w", name, h.ID, err))
			return
		}
		r.Files, files = append(r.Files, name), append(files, os.NewFile(uintptr(fd), name))
	}
	for name, st := range h.streams {
		fd, err := st.duplicate()
		add(name, fd, err)
	}
	if h.pidfd != nil {
		fd, err := duplicate(h.pidfd)
		add(shimapi.FilePidfd, fd, err)
	}
	s.mu.Unlock()
	defer shimapi.CloseFiles(files)
	if len(errs) > 0 {
		return errors.Join(errs...) // without its streams the container would be refused, and lost
	}
	c := p.dial(ctx)
	c.WriteRequest(shimapi.MethodAdopt, r, files...)
	if err := c.answer(ctx, nil); err != nil {
		return err
	}
	s.mu.Lock()
	h.holder = p // which is told of the end from now on
	exit := h.exit
	s.mu.Unlock()
	if exit != nil && r.Exit == nil { // it was collected during the call
		p.reportExit(ctx, h.ID, *exit)
	}
	return nil
}
