package shims

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"berth/oci/flock"
	"berth/oci/shimapi"
)

// ErrGone is wrapped by the calls of a shim that has died and has no replacement.
var ErrGone = errors.New("shim is gone")

// ErrDelayed is wrapped by the calls of a shim that has died and can't be replaced yet. Its
// containers run on, and the calls may be repeated.
var ErrDelayed = errors.New("shim is dead, and another can't be started yet")

// errClosed is returned by what is called after Close.
var errClosed = errors.New("the shims are disconnected")

// Kinds of events that this package makes, beside those of package shimapi. They
// are about shims that died, not about those that were told to exit.
const (
	// EventGone: the shim has no replacement. Record.Message is the reason, if known.
	EventGone = "gone"
	// EventReplaced: another process serves the shim now and has adopted its pods and
	// containers, except those that events of the kind EventLost name next.
	EventReplaced = "replaced"
	// EventLost: the replacement could not adopt this pod or container. Its Record has
	// only ID and Pod.
	EventLost = "lost"
	// EventDelayed: the shim has died, and another can't be started now; Record.Message tells
	// why. Its containers run on, and calls of the shim wait. It is tried again.
	EventDelayed = "delayed"
	// EventAnswers: the shim, which did not answer when the set was opened, does now.
	EventAnswers = "answers"
)

// reconnectedTogether is how many shims are asked side by side when the set is opened, so
// that several that hang take no longer than one.
const reconnectedTogether = 16

// patience bounds the wait for a shim that is starting or exiting.
const patience = 10 * time.Second

// Config says how shims are started and found.
type Config struct {
	Binary      string // path of berth-shim
	Foreign     string // path of berth-shim-v2, for pods with a foreign shim; "": there are none
	StateDir    string // the daemon's state directory, which ends with the boot
	PodsPerShim int    // 0: all new pods share one shim
	Scopes      bool   // systemd makes a scope for each shim; else the set makes a cgroup
	LogLevel    int    // verbosity as in the daemon's configuration; 4 and more is debug
	Version     string // berth's version
}

// Event is what a shim reported, or what became of the shim itself.
type Event struct {
	ShimID string
	shimapi.Event
}

// Set holds the shims of a node. Its methods may be called concurrently.
type Set struct {
	config Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	events chan Event
	tasks  sync.WaitGroup

	starting chan struct{} // holds one element while a shim is started
	replaced atomic.Uint64 // shims that died and have a replacement

	mu    sync.Mutex
	shims map[string]*Shim // by ID
}

// Open connects to the living shims below StateDir/shims and removes the directories
// of dead ones, with an event for each. The caller reads Events from then on.
func Open(ctx context.Context, c Config) (*Set, error) {
	s := &Set{config: c, events: make(chan Event, 64), starting: make(chan struct{}, 1), shims: map[string]*Shim{}}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.becomeSubreaper()
	if err := os.MkdirAll(s.dir(), 0o700); err != nil {
		return nil, fmt.Errorf("directory of the shims: %w", err)
	}
	entries, err := os.ReadDir(s.dir())
	if err != nil {
		return nil, fmt.Errorf("directory of the shims: %w", err)
	}
	var all errgroup.Group
	all.SetLimit(reconnectedTogether)
	for _, e := range entries {
		all.Go(func() error {
			if err := s.reconnect(ctx, e.Name()); err != nil {
				return fmt.Errorf("shim %s: %w", e.Name(), err)
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Set) dir() string { return filepath.Join(s.config.StateDir, "shims") }

func (s *Set) newShim(id string) *Shim {
	return &Shim{set: s, id: id, dir: filepath.Join(s.dir(), id), pods: map[string]struct{}{}, handover: handovers{}}
}

// reconnect adds a living shim to the set, or removes the directory of a dead one.
func (s *Set) reconnect(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	sh := s.newShim(id)
	for {
		lock, err := lockDir(sh.dir)
		switch {
		case err == nil: // the shim that held the lock is dead
			s.reportGone(id)
			return errors.Join(os.RemoveAll(sh.dir), lock.Close())
		case errors.Is(err, os.ErrNotExist): // it has exited since the directory was listed
			s.reportGone(id)
			return nil
		case !errors.Is(err, flock.ErrLocked):
			return err
		}
		if err = s.connectToPods(ctx, sh); err == nil {
			// The previous daemon may have started this shim and died before it ran a
			// pod on it. A shim that does not exit gets no pods and is asked again at
			// shutdown.
			if exited, _ := s.shutDownIfIdle(ctx, sh); exited {
				s.reportGone(id)
			}
			return nil
		}
		select { // the previous daemon died while the shim was starting or exiting
		case <-ctx.Done():
			return s.connectLater(sh, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// connectLater adds a shim that lives and has not answered, such as one that was stopped by
// SIGSTOP: one that hangs must not keep the daemon from serving the pods of the others. It
// counts as stuck, and tells what it holds once it answers. cause is why it was not asked.
func (s *Set) connectLater(sh *Shim, cause error) error {
	p, err := sh.identify(nil)
	if err == nil {
		p.unasked.Store(true)
		p.stuck.Store(true)
		err = p.follow()
	}
	if err != nil {
		return fmt.Errorf("it holds its lock but does not serve: %w", errors.Join(cause, err))
	}
	return nil
}

// connectToPods connects to a living shim that a previous daemon started.
func (s *Set) connectToPods(ctx context.Context, sh *Shim) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p, err := sh.connect(ctx, nil)
	if err != nil {
		return err
	}
	held, err := p.ask(ctx)
	if err != nil {
		return err
	}
	if err := p.follow(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sh.found = held
	return nil
}

// Found returns, by the IDs of the shims and of what they held, the records of all pods and
// containers that the shims listed when the set was opened. A later change of one is among the
// events. The records are not kept: a second call returns none.
func (s *Set) Found() map[string]map[string]shimapi.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]map[string]shimapi.Record)
	for id, sh := range s.shims {
		if sh.found == nil {
			continue
		}
		out[id] = make(map[string]shimapi.Record, len(sh.found))
		for _, r := range sh.found {
			out[id][r.ID] = r
		}
		sh.found = nil
	}
	return out
}

func (s *Set) reportGone(id string) {
	s.tasks.Go(func() { s.report(Event{ShimID: id, Event: shimapi.Event{Kind: EventGone}}) })
}

func (s *Set) report(e Event) {
	if e.Kind == EventReplaced {
		s.replaced.Add(1)
	}
	select {
	case s.events <- e:
	case <-s.ctx.Done():
	}
}

// Events returns the events of all shims. The channel is closed by Close. A caller
// that does not read it holds up the events, but no call.
func (s *Set) Events() <-chan Event { return s.events }

// Get returns a shim by its ID. It may be dead and about to be replaced, for which its calls
// wait. The error wraps [ErrGone].
func (s *Set) Get(id string) (*Shim, error) {
	s.mu.Lock()
	sh := s.shims[id]
	there := sh != nil && sh.process.isReplaceable()
	s.mu.Unlock()
	if !there {
		return nil, fmt.Errorf("shim %q: %w", id, ErrGone)
	}
	return sh, nil
}

// Serving is a process that serves a shim.
type Serving struct {
	ID, Version  string // Version is berth's
	Libcontainer string // its version, "" of a shim that does not tell
	PID, Pods    int
}

// Serving returns the shims that serve, in the order of their IDs.
func (s *Set) Serving() []Serving {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Serving
	for id, sh := range s.shims {
		if p := sh.process; p != nil && !p.isGone() {
			out = append(out, Serving{ID: id, Version: p.version, Libcontainer: p.library, PID: p.pid, Pods: len(sh.pods)})
		}
	}
	slices.SortFunc(out, func(a, b Serving) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Replaced counts the shims that died and were replaced since Open.
func (s *Set) Replaced() uint64 { return s.replaced.Load() }

// ForNewPod returns a shim of the daemon's version that has room for a pod, and starts
// one if there is none. The room stays reserved until [Shim.RunPod] or [Shim.Release].
func (s *Set) ForNewPod(ctx context.Context) (*Shim, error) { return s.forNewPod(ctx, false) }

// ForForeignPod is ForNewPod for a pod with a foreign shim, see [Shim.StartSandbox].
func (s *Set) ForForeignPod(ctx context.Context) (*Shim, error) { return s.forNewPod(ctx, true) }

func (s *Set) forNewPod(ctx context.Context, foreign bool) (*Shim, error) {
	select {
	case s.starting <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.starting }()
	s.awaitReplacements(ctx, foreign)
	if s.ctx.Err() != nil {
		return nil, errClosed
	}
	if sh := s.reserveAnswering(ctx, foreign); sh != nil {
		return sh, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	sh, err := s.startNew(ctx, foreign)
	if err != nil {
		return nil, fmt.Errorf("start shim: %w", err)
	}
	if sh := s.reserve(foreign); sh != nil {
		return sh, nil
	}
	return nil, fmt.Errorf("start shim: shim %s: %w", sh.id, ErrGone)
}

// startNew starts a shim with a new ID and adds it to the set.
func (s *Set) startNew(ctx context.Context, foreign bool) (*Shim, error) {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	sh := s.newShim(hex.EncodeToString(random[:]))
	c, err := s.launcher(foreign).launch(ctx, sh.dir)
	if err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p, err := sh.connect(bounded, c)
	if err == nil {
		err = p.follow()
	}
	if err != nil {
		c.kill() // it has no pods yet
		return nil, errors.Join(err, os.RemoveAll(sh.dir))
	}
	return sh, nil
}

// launcher starts one program or the other.
func (s *Set) launcher(foreign bool) launcher {
	l := launcher(s.config)
	if foreign {
		l.Binary = s.config.Foreign
	}
	return l
}

// reserve finds a shim with room for a pod and reserves the room; nil: there is none.
func (s *Set) reserve(foreign bool) *Shim {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range s.shims {
		p := sh.process
		full := s.config.PodsPerShim > 0 && len(sh.pods)+sh.reserved >= s.config.PodsPerShim
		if p.version == s.config.Version && p.foreign == foreign && !sh.leaving && !p.isGone() && !p.stuck.Load() && !full {
			sh.reserved++
			return sh
		}
	}
	return nil
}
