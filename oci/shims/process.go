package shims

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/atomicfile"
	"berth/oci/procfs"
	"berth/oci/shimapi"
)

// process is one run of berth-shim. It serves a shim until it ends, then the next
// process may take its place in the same directory.
type process struct {
	shim      *Shim
	pid       int
	version   string // berth's, of the program
	library   string // libcontainer's version
	foreign   bool   // it can drive foreign shims
	connected time.Time
	child     *child        // nil: it is not ours
	gone      chan struct{} // closed when it has ended
	ended     time.Time     // set when gone is closed
	stuck     atomic.Bool   // it did not answer the last call in time
	delayed   chan struct{} // closed when it is dead and another could not be started yet
	before    attempts      // of the processes that the shim had in short order before it
	unasked   atomic.Bool   // it did not answer when the set was opened, and has not told what it holds

	followed bool // somebody watches for its end; guarded by Set.mu

	decided     chan struct{} // closed when replacement is final
	replacement *process      // nil: nothing serves the shim any more; not read before decided
}

// identify reads which process serves the shim, and does not ask it. c is nil for a process that
// is not our child.
func (sh *Shim) identify(c *child) (*process, error) {
	p := &process{shim: sh, child: c, connected: time.Now(), gone: make(chan struct{}), delayed: make(chan struct{}), decided: make(chan struct{})}
	var hello shimapi.HelloResponse
	// The shim writes its identity when the socket is there.
	if err := atomicfile.Read(filepath.Join(sh.dir, shimapi.IdentityName), &hello); err != nil {
		return nil, err
	}
	p.is(hello)
	return p, nil
}

func (p *process) is(hello shimapi.HelloResponse) {
	p.pid, p.version, p.library, p.foreign = hello.PID, hello.Version, hello.Libcontainer, hello.Foreign
}

// connect is identify, and checks that the process answers, which ctx must bound.
func (sh *Shim) connect(ctx context.Context, c *child) (*process, error) {
	p, err := sh.identify(c)
	if err != nil {
		return nil, err
	}
	conn := p.dial(ctx)
	conn.WriteRequest(shimapi.MethodHello, struct{}{})
	var hello shimapi.HelloResponse
	if err := conn.answer(ctx, &hello); err != nil {
		return nil, err
	}
	p.is(hello)
	return p, nil
}

// follow makes p the process that serves its shim, adds the shim to the set, and
// watches p until it ends.
func (p *process) follow() error {
	fd, err := unix.PidfdOpen(p.pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch process %d: %w", p.pid, err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	sh, s := p.shim, p.shim.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil { // Close waits for the tasks that there are, and for no others
		return errors.Join(errClosed, pidfd.Close())
	}
	p.followed = true
	s.shims[sh.id] = sh
	sh.serveLocked(p)
	s.tasks.Go(func() { p.awaitEnd(pidfd) })
	s.tasks.Go(p.relayEvents)
	return nil
}

func (p *process) isGone() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

// awaitEnd closes gone when the process has ended. It returns early at Close.
func (p *process) awaitEnd(pidfd *os.File) {
	defer pidfd.Close()
	if procfs.AwaitEnd(p.shim.set.ctx, pidfd) != nil {
		return
	}
	if p.child != nil {
		<-p.child.reaped // immediately, since the process has ended
	}
	p.ended = time.Now()
	close(p.gone)
}

// relayEvents passes the process's events on until it ends, and then has it replaced.
// It returns early at Close.
func (p *process) relayEvents() {
	s := p.shim.set
	for s.ctx.Err() == nil && !p.isGone() {
		if p.unasked.Load() {
			p.askAtLast(s.ctx)
		} else {
			p.watch(s.ctx)
		}
		// A living shim closes the connection when we read too slowly. The next one
		// starts with a replay.
		p.waitIfDying(s.ctx, watchPause)
	}
	if p.isGone() {
		s.onDeath(p)
	}
}

// askAtLast waits until a shim that did not answer when the set was opened does, and asks it
// for what it holds.
func (p *process) askAtLast(ctx context.Context) {
	if _, err := p.ask(ctx); err != nil {
		return // it has closed the connection, or ended
	}
	p.unasked.Store(false)
	p.stuck.Store(false)
	p.shim.set.report(Event{ShimID: p.shim.id, Event: shimapi.Event{Kind: EventAnswers}})
}

// watch passes events on until the connection ends.
func (p *process) watch(ctx context.Context) {
	c := p.dial(ctx)
	defer c.close()
	c.WriteRequest(shimapi.MethodWatch, struct{}{})
	for {
		var e shimapi.Event
		// Not receive: a living shim may close this connection.
		files, err := c.ReadResponse(&e)
		if err != nil {
			return
		}
		shimapi.CloseFiles(files) // no event has any
		p.onEvent(e)
		p.shim.set.report(Event{ShimID: p.shim.id, Event: e})
	}
}

// watchPause is how long relayEvents waits for the end of a shim that has closed the
// connection, before it makes another. dyingPatience is the same for a call: a shim
// never closes a call without an answer unless it is dying.
const (
	watchPause    = 100 * time.Millisecond
	dyingPatience = 5 * time.Second
)

// waitIfDying gives a shim whose connection broke some time to be reported dead: a
// dying process closes its sockets slightly before its pidfd becomes readable.
func (p *process) waitIfDying(ctx context.Context, atMost time.Duration) {
	select {
	case <-p.gone:
	case <-ctx.Done():
	case <-time.After(atMost):
	}
}

// awaitReplacement waits for the process that takes over from p, which is dead or
// dying; nil: there is none, or none yet when p has been dead for answerPatience, or ctx or
// the set has ended. See unreplaced.
func (p *process) awaitReplacement(ctx context.Context) *process {
	if !p.isFollowed() {
		return nil // nobody would replace it
	}
	late := answerPatience
	if p.isGone() {
		late -= time.Since(p.ended)
	}
	timer := time.NewTimer(late)
	defer timer.Stop()
	select {
	case <-p.decided:
	case <-timer.C:
	case <-ctx.Done():
	case <-p.shim.set.ctx.Done():
	}
	return p.successor()
}

// successor is the process that has taken over from p; nil: there is none, or none yet.
func (p *process) successor() *process {
	select {
	case <-p.decided:
		return p.replacement
	default:
		return nil
	}
}

// unreplaced is why a call has failed for whose process, which has ended, no other could be
// waited for: err, which the end caused, when there will be none.
func (p *process) unreplaced(err error) error {
	if p.isFollowed() && p.isReplaceable() {
		return fmt.Errorf("shim %s: %w", p.shim.id, ErrDelayed)
	}
	return err
}

// isReplaceable tells whether p lives, or another process has taken over or may do so yet.
func (p *process) isReplaceable() bool {
	select {
	case <-p.decided:
		return p.replacement != nil
	default:
		return true
	}
}

func (p *process) isFollowed() bool {
	p.shim.set.mu.Lock()
	defer p.shim.set.mu.Unlock()
	return p.followed
}
