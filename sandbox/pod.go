package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"

	"berth/oci/shims"
)

// Sandbox is a pod sandbox. See doc.go for its locks.
type Sandbox struct {
	id     string
	slot   slot
	done   chan struct{} // closed when the pause process has ended
	status statusPointer[PodStatus]
	usage  usageSample
	open   keptFiles // of the pod's own cgroup
	// counted is what statistics have found of the pause process; nil before the first.
	counted atomic.Pointer[pauseCounted]
	silent  silence // of its foreign shim
	rec     stored[podRecord]
	told    stepTold

	mu       sync.Mutex
	stopping bool                    // no container may be created or started any more
	ended    bool                    // done is closed
	giveUp   context.CancelCauseFunc // ends the creation of a container that is under way; nil without one
}

// newSandbox makes a sandbox of a record whose file need not be there yet.
func newSandbox(file string, rec podRecord) *Sandbox {
	s := &Sandbox{id: rec.ID, slot: newSlot(), done: make(chan struct{}), told: stepTold{turn: newSlot()}}
	s.rec.file = file
	s.rec.value.Store(&rec)
	s.publish()
	return s
}

// shimIn is the shim that holds the pod; when it is no more, the error wraps both
// [shims.ErrGone] and [ErrNotReady], since the call comes before the pod is known to have ended.
func (s *Sandbox) shimIn(all *shims.Set) (*shims.Shim, error) {
	shim, err := all.Get(s.rec.get().ShimID)
	return shim, asDomain(err)
}

// Container is a container of a sandbox. See doc.go for its locks.
type Container struct {
	id     string
	pod    *Sandbox
	slot   slot
	done   chan struct{} // closed when the first process has ended, or never ran
	status statusPointer[ContainerStatus]
	usage  usageSample
	open   keptFiles // of its cgroup
	layer  layerUsage
	rec    stored[containerRecord]
	told   stepTold

	mu           sync.Mutex
	fact         containerFact
	signalled    bool             // the stop signal was sent
	ended        bool             // done is closed
	publishEvent func(Event)      // nil while no event of the container is to be published
	whenEnded    func(*Container) // is called with mu held and must not block; nil while nobody is to know
	published    int              // how many of lifeEvents were published, or skipped
}

// newContainer makes a container of a record whose file need not be there yet.
func newContainer(pod *Sandbox, file string, rec containerRecord) *Container {
	c := &Container{id: rec.ID, pod: pod, slot: newSlot(), done: make(chan struct{}), told: stepTold{turn: newSlot()}}
	c.rec.file = file
	c.rec.value.Store(&rec)
	return c
}

// statusPointer holds the status that readers see, which is never changed but replaced;
// nil until the first.
type statusPointer[T any] struct{ atomic.Pointer[T] }

// slot admits one verb at a time.
type slot chan struct{}

func newSlot() slot { return make(slot, 1) }

// take waits for the slot or the end of ctx.
func (s slot) take(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	default:
	}
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another call on it to end: %w", context.Cause(ctx))
	}
}

func (s slot) free() { <-s }

// newID is a random ID of 64 hexadecimal digits, as clients expect.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}
