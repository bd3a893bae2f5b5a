package shims

import (
	"context"
	"os"
	"time"

	"berth/oci/shimapi"
)

// What the tests of package shims_test look at or set from within.

var (
	ErrClosed        = errClosed
	LockDir          = lockDir
	RemoveShimCgroup = removeShimCgroup
)

// Patience is the bound of a shim's start and end.
const Patience = patience

// SetAnswerPatience sets the bound of calls and returns a function that sets it back.
func SetAnswerPatience(d time.Duration) (restore func()) {
	was := answerPatience
	answerPatience = d
	return func() { answerPatience = was }
}

// SetStepPatience sets the bound of each step of a handover and returns a function that sets it
// back.
func SetStepPatience(d time.Duration) (restore func()) {
	was := stepPatience
	stepPatience = d
	return func() { stepPatience = was }
}

// SetAdoptionPatience sets how long others wait for what can't be adopted and returns a function
// that sets it back.
func SetAdoptionPatience(d time.Duration) (restore func()) {
	was := adoptionPatience
	adoptionPatience = d
	return func() { adoptionPatience = was }
}

// SetBinary sets the program of the shims to come.
func (s *Set) SetBinary(path string) { s.config.Binary = path }

// ShutDownIfIdle tells a shim to exit if it has no pods.
func (s *Set) ShutDownIfIdle(ctx context.Context, sh *Shim) (exited bool, err error) {
	return s.shutDownIfIdle(ctx, sh)
}

// Dir is the directory of the shim.
func (sh *Shim) Dir() string { return sh.dir }

// Ended is closed when the process that serves the shim now has ended.
func (sh *Shim) Ended() <-chan struct{} {
	sh.set.mu.Lock()
	defer sh.set.mu.Unlock()
	return sh.process.gone
}

// Leaving reports whether the shim was told to exit.
func (sh *Shim) Leaving() bool {
	sh.set.mu.Lock()
	defer sh.set.mu.Unlock()
	return sh.leaving
}

// Handovers is for how many pods and containers files and state are kept.
func (sh *Shim) Handovers() int {
	sh.set.mu.Lock()
	defer sh.set.mu.Unlock()
	return len(sh.handover)
}

// Keep keeps files for a handover, as after a creation.
func (sh *Shim) Keep(state shimapi.HandoverState, files []*os.File) {
	sh.keep(sh.process, state, files)
}

// HandOverLate makes the shim die by kill, and hands a container over as one whose creation
// the dead process had reported just before, when the others were handed over already.
func (sh *Shim) HandOverLate(ctx context.Context, id string, kill func()) error {
	sh.set.mu.Lock()
	h, dead := sh.handover[id], sh.process
	delete(sh.handover, id)
	sh.set.mu.Unlock()
	kill()
	dead.awaitReplacement(ctx)
	sh.set.mu.Lock()
	sh.handover[id] = h
	sh.set.mu.Unlock()
	return sh.handOverLate(ctx, dead, id)
}

// Asked reports whether the shim has told what it holds.
func (sh *Shim) Asked() bool {
	sh.set.mu.Lock()
	defer sh.set.mu.Unlock()
	return !sh.process.unasked.Load()
}

// Stuck reports whether the shim did not answer the last call in time.
func (sh *Shim) Stuck() bool { return sh.process.stuck.Load() }

// ForgetStuck lets the shim count as one that answers.
func (sh *Shim) ForgetStuck() { sh.process.stuck.Store(false) }
