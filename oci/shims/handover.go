package shims

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"berth/oci/atomicfile"
	"berth/oci/failure"
	"berth/oci/flock"
	"berth/oci/shimapi"
)

const (
	// minLifetime: a shim process that lives for less counts as a crash, unless it has ended
	// since the host lacks what may be there later. After maxCrashes in a row there is no
	// further replacement, because something that it adopts kills it.
	minLifetime = 2 * time.Second
	maxCrashes  = 5

	// firstDelay is the time until another replacement is started after one that could not
	// be started; it doubles up to lastDelay.
	firstDelay = 100 * time.Millisecond
	lastDelay  = 5 * time.Second
)

// adoptionPatience is how long a pod or container may fail to be adopted for a reason of its own
// which may pass: a record that can't be read, or a log on a file system that hangs. All others
// of the shim wait so long. It is a variable for the tests.
var adoptionPatience = 2 * time.Minute

// attempts are the processes of a shim that have ended within minLifetime, or could not take
// over, one after the other.
type attempts struct {
	crashes int           // by a fault that was theirs
	delay   time.Duration // until the next is started
}

func (a *attempts) slowDown() { a.delay = min(max(firstDelay, 2*a.delay), lastDelay) }

// attempts counts a process that has died.
func (p *process) attempts() attempts {
	if p.ended.Sub(p.connected) >= minLifetime {
		return attempts{}
	}
	a := p.before
	if p.child != nil && p.child.lackedSomething() {
		a.slowDown()
	} else {
		a.crashes++
	}
	return a
}

// awaitReplacements waits for the replacements of all shims that are dead, so that a new pod,
// with a foreign shim or without, does not get a shim of its own instead.
func (s *Set) awaitReplacements(ctx context.Context, foreign bool) {
	s.mu.Lock()
	var dead []*process
	for _, sh := range s.shims {
		if p := sh.process; p.isGone() && p.foreign == foreign {
			dead = append(dead, p)
		}
	}
	s.mu.Unlock()
	for _, p := range dead {
		select {
		case <-p.decided:
		case <-p.delayed:
		case <-ctx.Done():
		case <-s.ctx.Done():
		}
	}
}

// onDeath replaces a process that has died, or removes its shim from the set.
func (s *Set) onDeath(p *process) {
	sh := p.shim
	replacement, lost, err := s.replace(p)
	p.replacement = replacement
	close(p.decided)
	if s.ctx.Err() != nil {
		return // the next daemon finds what there is
	}
	if replacement != nil {
		s.report(Event{ShimID: sh.id, Event: shimapi.Event{Kind: EventReplaced}})
		for _, h := range lost {
			r := shimapi.Record{ID: h.ID, Pod: h.Pod}
			s.report(Event{ShimID: sh.id, Event: shimapi.Event{Kind: EventLost, Record: r}})
		}
		return
	}
	s.mu.Lock()
	delete(s.shims, sh.id)
	expected := sh.leaving
	sh.handover.dropAll()
	s.mu.Unlock()
	_ = os.RemoveAll(sh.dir) // a shim that was told to exit has done so; on an error the next daemon tries again
	if !expected {
		e := shimapi.Event{Kind: EventGone}
		if err != nil {
			e.Record.Message = err.Error()
		}
		s.report(Event{ShimID: sh.id, Event: e})
	}
}

// replace starts another process in the directory of a dead one, which holds
// libcontainer's state, and makes it adopt all pods and containers. lost are those that
// could not be adopted. The replacement is nil without an error when there is nothing
// to hand over.
func (s *Set) replace(dead *process) (replacement *process, lost []*handover, err error) {
	sh := dead.shim
	a := dead.attempts()
	for wait(s.ctx, a.delay); a.crashes < maxCrashes; wait(s.ctx, a.delay) {
		states := sh.statesInOrder() // with what a call has told of in the last moment
		if _, err := os.Lstat(sh.dir); errors.Is(err, os.ErrNotExist) {
			return nil, nil, nil // it has exited as it was told to
		}
		if len(states) == 0 {
			return nil, nil, sh.nothingKept()
		}
		for _, h := range states {
			sh.collectExit(h)
		}
		replacement, lost, err = s.handOver(dead, a, states)
		if err == nil || s.ctx.Err() != nil {
			return replacement, lost, err
		}
		if mayStartLater(err) {
			s.reportDelay(dead, err)
		} else if a.crashes++; a.crashes == maxCrashes {
			break
		}
		a.slowDown()
	}
	if err == nil {
		err = fmt.Errorf("%d shims in a row ended within %v", a.crashes, minLifetime)
	}
	return nil, nil, err
}

// nothingKept is why there is nothing to hand over: nil when the shim had nothing.
func (sh *Shim) nothingKept() error {
	sh.set.mu.Lock()
	defer sh.set.mu.Unlock()
	if sh.leaving || len(sh.pods) == 0 {
		return nil
	}
	return errors.New("it did not give what another would need of its pods")
}

// statesInOrder are the states of all that the shim holds, pods before their containers.
func (sh *Shim) statesInOrder() []*handover {
	sh.set.mu.Lock()
	defer sh.set.mu.Unlock()
	return slices.SortedFunc(maps.Values(sh.handover), func(a, b *handover) int { return len(a.Pod) - len(b.Pod) })
}

// reportDelay tells why the replacement of a dead process has to wait. It does not wait itself
// for the reader of the events, which may wait for the replacement.
func (s *Set) reportDelay(dead *process, why error) {
	select {
	case <-dead.delayed: // reported before
	default:
		close(dead.delayed)
	}
	select {
	case s.events <- Event{ShimID: dead.shim.id, Event: shimapi.Event{Kind: EventDelayed, Record: shimapi.Record{Message: why.Error()}}}:
	default: // the next one tells the same
	}
}

// notStarted is why no process of a shim could be started, or one has ended at once that was.
type notStarted struct{ error }

func (e notStarted) Unwrap() error { return e.error }

// mayStartLater tells whether a replacement could not be started, or could not adopt all, for a
// reason that may pass, such as a lack of process IDs, memory, descriptors or space, of which it
// may have died, a program that ends before it serves, a record that can't be read now, or a
// step that takes too long. The containers of the dead shim run meanwhile, and to give them up
// would end them.
func mayStartLater(err error) bool {
	if _, is := errors.AsType[notStarted](err); is {
		return !errors.Is(err, errNoProgram)
	}
	if _, refused := errors.AsType[*shimapi.Error](err); refused {
		return true // the replacement lives, and has said why it can't
	}
	return IsShortage(err) || errors.Is(err, context.DeadlineExceeded)
}

// isLost tells whether the replacement has said that it can never adopt a pod or container,
// whose process, record, state or streams are gone. Every other refusal, such as that of a disk
// that fails to read, may pass, and to take it for a loss would end what runs well.
func isLost(err error) bool {
	refusal, is := errors.AsType[*shimapi.Error](err)
	return is && (refusal.Kind == shimapi.KindNotFound || refusal.Kind == shimapi.KindInvalid)
}

// noteAdoption notes how a try of an adoption went. Neither a shortage of the host nor the death
// of the replacement is the fault of what was to be adopted.
func (h *handover) noteAdoption(err error) {
	_, refused := errors.AsType[*shimapi.Error](err)
	switch {
	case err == nil:
		h.unadoptedSince = time.Time{}
	case h.unadoptedSince.IsZero() && (refused && !IsShortage(err) || errors.Is(err, context.DeadlineExceeded)):
		h.unadoptedSince = time.Now()
	}
}

// isOverdue tells whether the others have waited for long enough. What can't be adopted then is
// lost, and ended, as if its record were gone.
func (h *handover) isOverdue() bool {
	return !h.unadoptedSince.IsZero() && time.Since(h.unadoptedSince) > adoptionPatience
}

// IsShortage tells whether we or the shim, which then says so, lack what may be there later.
func IsShortage(err error) bool {
	refusal, is := errors.AsType[*shimapi.Error](err)
	return is && refusal.Kind == shimapi.KindShortage || failure.IsShortage(err)
}

// wait returns after that time, or when ctx has ended.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// handOver tries once to start a replacement and make it adopt all. It fails when the
// replacement does, or can't do an adoption for now: what it can never adopt is lost, and ended.
func (s *Set) handOver(dead *process, a attempts, states []*handover) (replacement *process, lost []*handover, err error) {
	sh := dead.shim
	// Close waits for it: the next daemon would not have the files.
	ctx, next, done := inSteps(s.ctx)
	defer done()
	c, err := s.launcher(dead.foreign).restart(ctx, sh.dir)
	if err != nil {
		return nil, nil, notStarted{fmt.Errorf("start a replacement of the shim: %w", err)}
	}
	defer func() {
		if err != nil {
			err = c.end(err)
		}
	}()
	if replacement, err = sh.connect(ctx, c); err != nil {
		return nil, nil, fmt.Errorf("replacement of the shim: %w", err)
	}
	replacement.before = a
	for _, h := range states {
		next()
		if h.isOverdue() {
			lost = append(lost, h)
			continue
		}
		err := h.sendTo(ctx, replacement)
		h.noteAdoption(err)
		switch {
		case isLost(err):
			lost = append(lost, h)
		case err != nil:
			return nil, nil, fmt.Errorf("replacement of the shim: adoption of %s: %w", h.ID, err)
		}
	}
	if err := replacement.follow(); err != nil && !errors.Is(err, errClosed) {
		return nil, nil, err
	}
	for _, h := range lost {
		sh.forget(h.ID)
	}
	return replacement, lost, nil
}

// handOverLate makes the replacement of a dead process adopt a container whose creation
// that process reported just before its end, if it was not among those that the
// replacement has adopted.
func (sh *Shim) handOverLate(ctx context.Context, dead *process, id string) error {
	replacement := dead.awaitReplacement(ctx)
	sh.set.mu.Lock()
	h := sh.handover[id]
	adopted := h == nil || h.holder != dead
	sh.set.mu.Unlock()
	err := fmt.Errorf("shim %s: %w", sh.id, ErrGone)
	if replacement == nil && dead.isReplaceable() {
		return dead.unreplaced(err) // the replacement will adopt it with all others
	}
	if replacement != nil {
		if adopted {
			return nil
		}
		sh.collectExit(h)
		err = h.sendTo(ctx, replacement)
	}
	if err != nil {
		sh.set.mu.Lock()
		defer sh.set.mu.Unlock()
		sh.handover.drop(id)
	}
	return err
}

// dropJournals removes the journals that the dead shim of a directory did not keep: one of another
// release may have been before it. Without its identity nothing has served since they were right.
func dropJournals(dir string) error {
	var hello shimapi.HelloResponse
	if err := atomicfile.Read(filepath.Join(dir, shimapi.IdentityName), &hello); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		hello.Journal = ""
	}
	found, _ := filepath.Glob(filepath.Join(dir, shimapi.JournalPrefix+"*")) // no error with this pattern
	for _, path := range found {
		if filepath.Base(path) == hello.Journal {
			continue
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// restart starts a shim in the directory of a dead one.
func (l launcher) restart(ctx context.Context, dir string) (*child, error) {
	if err := dropJournals(dir); err != nil {
		return nil, err
	}
	for _, name := range []string{shimapi.IdentityName, shimapi.SocketName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	for {
		c, err := l.start(ctx, dir)
		if !errors.Is(err, flock.ErrLocked) {
			return c, err
		}
		select { // a child that the dead shim was starting has the lock until it executes its program
		case <-ctx.Done():
			return nil, err
		case <-time.After(10 * time.Millisecond):
		}
	}
}
