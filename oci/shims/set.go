package shims

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
)

// ErrGone is wrapped by every call of a shim that is no more.
var ErrGone = errors.New("shim is gone")

// errClosed is what comes too late for Close.
var errClosed = errors.New("the shims are disconnected")

// Kinds of events about a shim that died (not: was told to leave). In place of
// EventGone there is EventReplaced when another took over under the same ID, then
// EventLost of each pod and container that could not be adopted; its Record has
// only ID and Pod.
const (
	EventGone     = "gone"
	EventReplaced = "replaced"
	EventLost     = "lost"
)

const (
	// patience bounds waits for a shim that lives but is not ready, or that has
	// closed its connections but is not dead yet.
	patience = 10 * time.Second
)

// Config says how shims are started and found.
type Config struct {
	Binary      string // path of berth-shim
	StateDir    string // S; ends with the boot
	PodsPerShim int    // 0: all new pods share one
	LogLevel    int    // verbosity as the daemon's: 4 and more is debug
	Version     string // berth's
}

// Event is what a shim told, or the end of a shim: [EventGone] and the like.
type Event struct {
	ShimID string
	shimapi.Event
}

// Set is the set of shims of a node. Its methods may be called concurrently.
type Set struct {
	config Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	events chan Event
	tasks  sync.WaitGroup

	starting chan struct{} // held (one element) while a shim is started

	mu    sync.Mutex
	shims map[string]*Shim
}

// Open connects to the shims that live under StateDir/shims and clears away
// the dead, of which it tells by events. Read Events soon.
func Open(ctx context.Context, c Config) (*Set, error) {
	s := &Set{config: c, events: make(chan Event, 64), starting: make(chan struct{}, 1), shims: map[string]*Shim{}}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.beReaper()
	if err := os.MkdirAll(s.dir(), 0o700); err != nil {
		return nil, fmt.Errorf("directory of the shims: %w", err)
	}
	entries, err := os.ReadDir(s.dir())
	if err != nil {
		return nil, fmt.Errorf("directory of the shims: %w", err)
	}
	for _, e := range entries {
		if err := s.find(ctx, e.Name()); err != nil {
			return nil, errors.Join(fmt.Errorf("shim %s: %w", e.Name(), err), s.Close())
		}
	}
	return s, nil
}

func (s *Set) dir() string { return filepath.Join(s.config.StateDir, "shims") }

// find takes a living shim in, or removes a dead one's directory.
func (s *Set) find(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	dir := filepath.Join(s.dir(), id)
	for {
		lock, err := lockDir(dir)
		switch {
		case err == nil: // nobody holds it
			s.tellGone(id)
			return errors.Join(os.RemoveAll(dir), lock.Close())
		case errors.Is(err, os.ErrNotExist): // it has just left
			s.tellGone(id)
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			return err
		}
		sh, err := s.connect(ctx, id, nil)
		if err == nil {
			err = s.admit(sh)
		}
		if err == nil {
			s.keepIfUsed(ctx, sh)
			return nil
		}
		select { // only of a daemon that died while a shim was started or left
		case <-ctx.Done():
			return fmt.Errorf("it holds its lock but does not serve: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (s *Set) tellGone(id string) {
	s.tasks.Go(func() { s.send(Event{ShimID: id, Event: shimapi.Event{Kind: EventGone}}) })
}

// keepIfUsed has a shim that holds nothing leave: the daemon before us had started
// it for a pod that it did not come to run, or for a hand-over that it did not come
// to make, and it may be of a version that gets no pods any more. One that does not
// leave gets none either, and is asked again in the end.
func (s *Set) keepIfUsed(ctx context.Context, sh *Shim) {
	if left, _ := s.dismiss(ctx, sh); left {
		s.tellGone(sh.id)
	}
}

// lockDir takes the lock of a shim's directory; EWOULDBLOCK: its shim lives.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, shimapi.LockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return f, nil
}

// connect meets a living shim. reaped tells, of a shim that is our child, that it
// was waited for.
func (s *Set) connect(ctx context.Context, id string, reaped <-chan struct{}) (*Shim, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	sh := &Shim{
		shims: s, id: id, dir: filepath.Join(s.dir(), id), reaped: reaped, born: time.Now(),
		gone: make(chan struct{}), decided: make(chan struct{}), pods: map[string]struct{}{}, kept: map[string]*custody{},
	}
	hello, err := sh.meet(ctx)
	if err != nil {
		return nil, err
	}
	sh.pid, sh.version = hello.PID, hello.Version
	held, err := sh.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range held.Pods {
		sh.pods[p.ID] = struct{}{}
	}
	return sh, nil
}

// admit makes a shim one of the set and follows it to its end.
func (s *Set) admit(sh *Shim) error {
	pidfd, err := unix.PidfdOpen(sh.pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch process %d: %w", sh.pid, err)
	}
	process := os.NewFile(uintptr(pidfd), "pidfd")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil { // Close waits for the tasks there are, and no others
		return errors.Join(errClosed, process.Close())
	}
	sh.followed = true
	s.shims[sh.id] = sh
	s.tasks.Go(func() { sh.awaitEnd(process) })
	s.tasks.Go(func() { s.follow(sh) })
	return nil
}

// meet says hello.
func (sh *Shim) meet(ctx context.Context) (hello shimapi.HelloResponse, err error) {
	// The identity is written when the socket is there.
	if err = atomicfile.Read(filepath.Join(sh.dir, shimapi.IdentityName), &hello); err != nil {
		return hello, err
	}
	return sh.Ping(ctx)
}

// awaitEnd closes gone when the shim's process has ended.
func (sh *Shim) awaitEnd(process *os.File) {
	stop := context.AfterFunc(sh.shims.ctx, func() { _ = process.SetReadDeadline(time.Now()) })
	defer stop()
	defer process.Close()
	raw, err := process.SyscallConn()
	if err != nil {
		return
	}
	ended := false
	_ = raw.Read(func(fd uintptr) bool { // an error is the deadline: Close
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, perr := unix.Poll(fds, 0)
		ended = perr == nil && n > 0
		return ended
	})
	if !ended {
		return
	}
	if sh.reaped != nil {
		<-sh.reaped // at once, now that it has ended
	}
	close(sh.gone)
}

// follow hands on what a shim tells, until its end or Close.
func (s *Set) follow(sh *Shim) {
	for s.ctx.Err() == nil && !sh.isGone() {
		// An end while the shim lives: it cut us off because we fell behind.
		_ = sh.watch(s.ctx, func(e shimapi.Event) {
			sh.heed(e)
			s.send(Event{ShimID: sh.id, Event: e})
		})
		sh.settled(s.ctx)
	}
	if sh.isGone() {
		s.succeed(sh)
	}
}

// settled waits a moment whether the shim whose connection ended is dying: its
// files are closed a little before its pidfd tells.
func (sh *Shim) settled(ctx context.Context) {
	select {
	case <-sh.gone:
	case <-ctx.Done():
	case <-time.After(100 * time.Millisecond):
	}
}

func (s *Set) send(e Event) {
	select {
	case s.events <- e:
	case <-s.ctx.Done():
	}
}

// Events are the merged tellings of all shims; the channel is closed by Close.
// A reader that stops reading stops only itself.
func (s *Set) Events() <-chan Event { return s.events }

// Get finds a living shim by its ID; the error wraps [ErrGone]. Of one that has
// just died it waits for the heir, which takes a moment.
func (s *Set) Get(id string) (*Shim, error) {
	s.mu.Lock()
	sh := s.shims[id]
	s.mu.Unlock()
	for sh != nil && sh.isGone() {
		sh = sh.heir(s.ctx)
	}
	if sh == nil {
		return nil, fmt.Errorf("shim %q: %w", id, ErrGone)
	}
	return sh, nil
}

// ForNewPod returns a shim of this version that has room for a pod, starting one
// when there is none. The room is kept until RunPod is called on it.
func (s *Set) ForNewPod(ctx context.Context) (*Shim, error) {
	select {
	case s.starting <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.starting }()
	s.awaitHeirs(ctx)
	if s.ctx.Err() != nil {
		return nil, errClosed
	}
	if sh := s.answering(ctx); sh != nil {
		return sh, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	id := hex.EncodeToString(random[:])
	c, err := s.launch(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("start shim: %w", err)
	}
	sh, err := s.connect(ctx, id, c.reaped)
	if err == nil {
		err = s.admit(sh)
	}
	if err != nil {
		c.end() // it holds nothing yet
		return nil, errors.Join(fmt.Errorf("start shim: %w", err), os.RemoveAll(filepath.Join(s.dir(), id)))
	}
	if sh := s.withRoom(); sh != nil {
		return sh, nil
	}
	return nil, fmt.Errorf("start shim: shim %s: %w", id, ErrGone)
}

func (s *Set) withRoom() *Shim {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range s.shims {
		full := s.config.PodsPerShim > 0 && len(sh.pods)+sh.reserved >= s.config.PodsPerShim
		if sh.version == s.config.Version && !sh.leaving && !sh.isGone() && !sh.stuck.Load() && !full {
			sh.reserved++
			return sh
		}
	}
	return nil
}
