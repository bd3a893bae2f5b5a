package sandbox

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"berth/oci"
)

// Options is what a Manager is made of.
type Options struct {
	Root    string // durable records
	State   string // sockets, namespaces, mounts; dies with the boot
	Images  Images
	Network Network
	Shims   *oci.Shims
	Host    oci.Host
	// SeccompRoot is where relative Localhost profiles are looked for.
	SeccompRoot string
	// Handlers are the runtime handlers pods may name besides "".
	Handlers []string
	// StopTimeout bounds the wait after SIGKILL before a stop is given up with
	// an error that names the process.
	StopTimeout time.Duration
}

// Manager holds the node's pods and containers. Its methods may be called at
// the same time from any goroutine.
type Manager struct {
	opt    Options
	bootID string
	events *broadcaster

	layerWalks chan struct{} // holds one for each layer being measured
	finishBy   time.Time     // see finish; set once, by Recover
	made       madeCgroups
	looks      looks
	health     health
	settled    chan struct{} // closed when the tasks of Recover have ended

	mu         sync.RWMutex
	pods       map[string]*Sandbox
	containers map[string]*Container
	aside      map[string]chan struct{} // of pods put aside; closed when the network is released
}

// New makes a Manager without pods; [Manager.Recover] loads those on disk and
// must be called once, before any other method.
func New(opt Options) (*Manager, error) {
	if opt.StopTimeout == 0 {
		opt.StopTimeout = 30 * time.Second
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read boot id: %w", err)
	}
	m := &Manager{
		opt:        opt,
		bootID:     strings.TrimSpace(string(boot)),
		events:     newBroadcaster(),
		layerWalks: make(chan struct{}, layerWalks),
		made:       madeCgroups{top: make(map[string]string)},
		settled:    make(chan struct{}),
		pods:       make(map[string]*Sandbox),
		containers: make(map[string]*Container),
		aside:      make(map[string]chan struct{}),
	}
	for dir, mode := range map[string]os.FileMode{
		m.podsDir(): 0o700, opt.State + "/pods": 0o700,
		opt.State + "/containers": 0o711, // see makeStateDir
	} {
		// An earlier version, or an operator, may have made it more open.
		if err := errors.Join(os.MkdirAll(dir, mode), os.Chmod(dir, mode)); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
	}
	if err := m.watchDirs(); err != nil {
		return nil, fmt.Errorf("look at directory: %w", err)
	}
	return m, nil
}

// Sandbox is a pod sandbox. See doc.go for its locks.
type Sandbox struct {
	id     string
	slot   slot
	done   chan struct{} // closed when the pause process has ended
	status statusPointer[PodStatus]
	usage  usageSample

	rec      stored[podRecord]
	mu       sync.Mutex
	stopping bool                    // no container may be created or started any more
	ended    bool                    // done is closed
	giveUp   context.CancelCauseFunc // ends the creation of a container that is under way; nil without one
}

// Container is a container of a sandbox. See doc.go for its locks.
type Container struct {
	id     string
	pod    *Sandbox
	slot   slot
	done   chan struct{} // closed when the first process has ended, or never ran
	status statusPointer[ContainerStatus]
	usage  usageSample
	layer  layerUsage

	rec       stored[containerRecord]
	mu        sync.Mutex
	fact      containerFact
	signalled bool        // the stop signal was sent
	ended     bool        // done is closed
	tell      func(Event) // to the subscribers; nil while nothing is told
	told      int         // how many of lifeEvents were told, or passed over
}

// newSandbox makes a sandbox of a record whose file need not be there yet.
func newSandbox(file string, rec podRecord) *Sandbox {
	s := &Sandbox{id: rec.ID, slot: newSlot(), done: make(chan struct{})}
	s.rec.file = file
	s.rec.value.Store(&rec)
	s.publish()
	return s
}

// newContainer makes a container of a record whose file need not be there yet.
func newContainer(pod *Sandbox, file string, rec containerRecord) *Container {
	c := &Container{id: rec.ID, pod: pod, slot: newSlot(), done: make(chan struct{})}
	c.rec.file = file
	c.rec.value.Store(&rec)
	return c
}

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

func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// lookup finds by full ID, or by a prefix that only one entry has.
func lookup[T any](all map[string]T, what, id string) (T, error) {
	var none T
	if v, ok := all[id]; ok {
		return v, nil
	}
	if id == "" {
		return none, fmt.Errorf("%s ID is empty: %w", what, ErrInvalid)
	}
	var found []string
	for full := range all {
		if strings.HasPrefix(full, id) {
			found = append(found, full)
		}
	}
	switch len(found) {
	case 0:
		return none, fmt.Errorf("%s %q: %w", what, id, ErrNotFound)
	case 1:
		return all[found[0]], nil
	default:
		return none, fmt.Errorf("%s ID %q is the start of %d IDs, give more of it: %w", what, id, len(found), ErrInvalid)
	}
}

func (m *Manager) pod(id string) (*Sandbox, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return lookup(m.pods, "pod sandbox", id)
}

func (m *Manager) container(id string) (*Container, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return lookup(m.containers, "container", id)
}

// Pod returns the status of a pod sandbox by ID or unambiguous prefix.
func (m *Manager) Pod(id string) (*PodStatus, error) {
	s, err := m.pod(id)
	if err != nil {
		return nil, err
	}
	if st := s.status.Load(); st != nil {
		return st, nil
	}
	return nil, fmt.Errorf("pod sandbox %q is still being made: %w", id, ErrNotFound)
}

// Container returns the status of a container by ID or unambiguous prefix.
func (m *Manager) Container(id string) (*ContainerStatus, error) {
	c, err := m.container(id)
	if err != nil {
		return nil, err
	}
	if st := c.status.Load(); st != nil {
		return st, nil
	}
	return nil, fmt.Errorf("container %q is still being made: %w", id, ErrNotFound)
}

// Pods lists the pod sandboxes that are whole, newest first.
func (m *Manager) Pods() []*PodStatus {
	m.mu.RLock()
	out := make([]*PodStatus, 0, len(m.pods))
	for _, s := range m.pods {
		if st := s.status.Load(); st != nil {
			out = append(out, st)
		}
	}
	m.mu.RUnlock()
	slices.SortFunc(out, func(a, b *PodStatus) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), strings.Compare(a.ID, b.ID))
	})
	return out
}

// Containers lists the containers that are whole, newest first.
func (m *Manager) Containers() []*ContainerStatus {
	m.mu.RLock()
	out := make([]*ContainerStatus, 0, len(m.containers))
	for _, c := range m.containers {
		if st := c.status.Load(); st != nil {
			out = append(out, st)
		}
	}
	m.mu.RUnlock()
	slices.SortFunc(out, func(a, b *ContainerStatus) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), strings.Compare(a.ID, b.ID))
	})
	return out
}

// containersOf lists a pod's containers, half-made ones too.
func (m *Manager) containersOf(s *Sandbox) []*Container {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []*Container
	for _, c := range m.containers {
		if c.pod == s {
			out = append(out, c)
		}
	}
	return out
}

func (m *Manager) addPod(s *Sandbox) {
	m.mu.Lock()
	m.pods[s.id] = s
	m.mu.Unlock()
}

func (m *Manager) addContainer(c *Container) {
	m.mu.Lock()
	m.containers[c.id] = c
	m.mu.Unlock()
}

func (m *Manager) forgetPod(id string) {
	m.mu.Lock()
	delete(m.pods, id)
	m.mu.Unlock()
}

func (m *Manager) forgetContainer(id string) {
	m.mu.Lock()
	delete(m.containers, id)
	m.mu.Unlock()
}

// Subscribe tells every change after it is committed, until ctx ends. A reader
// that falls too far behind is cut off by closing its channel, so that it
// knows to list anew.
func (m *Manager) Subscribe(ctx context.Context) <-chan Event { return m.events.subscribe(ctx) }
