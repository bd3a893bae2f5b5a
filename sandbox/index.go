package sandbox

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// index finds the node's pods and containers by ID, by name and by pod. Half-made ones
// are in it; statuses list only those that are whole.
type index struct {
	mu          sync.RWMutex // guards the maps, never held across I/O
	pods        map[string]*Sandbox
	containers  map[string]*Container
	podsOf      map[podName]map[string]*Sandbox         // by name, then by ID
	containerOf map[*Sandbox]map[string]*Container      // by pod, then by ID
	named       map[containerName]map[string]*Container // by name, then by ID
	levels      map[string]int                          // how many pods, and calls that make one, have an SELinux level
}

func newIndex() *index {
	return &index{
		pods: make(map[string]*Sandbox), containers: make(map[string]*Container),
		podsOf: make(map[podName]map[string]*Sandbox), containerOf: make(map[*Sandbox]map[string]*Container),
		named: make(map[containerName]map[string]*Container), levels: make(map[string]int),
	}
}

// podName is what the kubelet knows a pod sandbox by before it has an ID.
type podName struct {
	name, namespace, uid string
	attempt              uint32
}

func podNameOf(m *runtimeapi.PodSandboxMetadata) podName {
	return podName{m.GetName(), m.GetNamespace(), m.GetUid(), m.GetAttempt()}
}

// containerName is what the kubelet knows a container by before it has an ID.
type containerName struct {
	pod, name string
	attempt   uint32
}

func containerNameOf(pod string, m *runtimeapi.ContainerMetadata) containerName {
	return containerName{pod, m.GetName(), m.GetAttempt()}
}

// put adds a value to a map of maps.
func put[K, L comparable, V any](all map[K]map[L]V, key K, id L, v V) {
	if all[key] == nil {
		all[key] = make(map[L]V)
	}
	all[key][id] = v
}

// drop removes a value from a map of maps.
func drop[K, L comparable, V any](all map[K]map[L]V, key K, id L) {
	delete(all[key], id)
	if len(all[key]) == 0 {
		delete(all, key)
	}
}

func (ix *index) addPod(s *Sandbox) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.pods[s.id] = s
	put(ix.podsOf, podNameOf(s.rec.get().config.GetMetadata()), s.id, s)
	ix.levels[s.rec.get().SELinuxLevel]++
}

func (ix *index) addContainer(c *Container) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.containers[c.id] = c
	put(ix.containerOf, c.pod, c.id, c)
	put(ix.named, containerNameOf(c.pod.id, c.rec.get().config.GetMetadata()), c.id, c)
}

// forgetPod reports false when the pod was forgotten before.
func (ix *index) forgetPod(id string) bool {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	s := ix.pods[id]
	if s == nil {
		return false
	}
	delete(ix.pods, id)
	drop(ix.podsOf, podNameOf(s.rec.get().config.GetMetadata()), id)
	ix.dropLevelLocked(s.rec.get().SELinuxLevel)
	return true
}

// forgetContainer reports false when the container was forgotten before.
func (ix *index) forgetContainer(id string) bool {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	c := ix.containers[id]
	if c == nil {
		return false
	}
	delete(ix.containers, id)
	drop(ix.containerOf, c.pod, id)
	drop(ix.named, containerNameOf(c.pod.id, c.rec.get().config.GetMetadata()), id)
	return true
}

// hasPodPart tells whether the ID of a pod begins with part.
func (ix *index) hasPodPart(part string) bool {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	for id := range ix.pods {
		if strings.HasPrefix(id, part) {
			return true
		}
	}
	return false
}

// lookup finds by full ID, or by a prefix that only one entry has.
func lookup[T any](all map[string]T, what, id string) (T, error) {
	var none T
	if v, ok := all[id]; ok {
		return v, nil
	}
	if id == "" {
		return none, failed(ErrInvalid, "%s ID is empty", what)
	}
	var found []string
	for full := range all {
		if strings.HasPrefix(full, id) {
			found = append(found, full)
		}
	}
	switch len(found) {
	case 0:
		return none, failed(ErrNotFound, "there is no %s %q", what, id)
	case 1:
		return all[found[0]], nil
	default:
		return none, failed(ErrInvalid, "%s ID %q is the start of %d IDs, give more of it", what, id, len(found))
	}
}

// pod finds a pod by ID or unambiguous prefix.
func (ix *index) pod(id string) (*Sandbox, error) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return lookup(ix.pods, "pod sandbox", id)
}

// container finds a container by ID or unambiguous prefix.
func (ix *index) container(id string) (*Container, error) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return lookup(ix.containers, "container", id)
}

// podByID is nil when there is none of that full ID.
func (ix *index) podByID(id string) *Sandbox {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return ix.pods[id]
}

// containerByID is nil when there is none of that full ID.
func (ix *index) containerByID(id string) *Container {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return ix.containers[id]
}

// podsNamed are the pods of a name: one, unless an earlier one could not be removed.
func (ix *index) podsNamed(name podName) []*Sandbox {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return slices.Collect(maps.Values(ix.podsOf[name]))
}

// containersNamed are the containers of a name, as podsNamed.
func (ix *index) containersNamed(name containerName) []*Container {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return slices.Collect(maps.Values(ix.named[name]))
}

func (ix *index) allPods() []*Sandbox {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return slices.Collect(maps.Values(ix.pods))
}

func (ix *index) allContainers() []*Container {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return slices.Collect(maps.Values(ix.containers))
}

// containersOf lists a pod's containers, half-made ones too.
func (ix *index) containersOf(s *Sandbox) []*Container {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return slices.Collect(maps.Values(ix.containerOf[s]))
}

// PodIDs names all pod sandboxes, half-made ones too.
func (ix *index) PodIDs() []string {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return slices.Collect(maps.Keys(ix.pods))
}

// Pod returns the status of a pod sandbox by ID or unambiguous prefix.
func (ix *index) Pod(id string) (*PodStatus, error) {
	s, err := ix.pod(id)
	if err != nil {
		return nil, err
	}
	if st := s.status.Load(); st != nil {
		return st, nil
	}
	return nil, failed(ErrNotFound, "pod sandbox %q is still being made", id)
}

// Container returns the status of a container by ID or unambiguous prefix.
func (ix *index) Container(id string) (*ContainerStatus, error) {
	c, err := ix.container(id)
	if err != nil {
		return nil, err
	}
	if st := c.status.Load(); st != nil {
		return st, nil
	}
	return nil, failed(ErrNotFound, "container %q is still being made", id)
}

// Pods lists the pod sandboxes that are whole, newest first.
func (ix *index) Pods() []*PodStatus {
	all := ix.allPods()
	out := make([]*PodStatus, 0, len(all))
	for _, s := range all {
		if st := s.status.Load(); st != nil {
			out = append(out, st)
		}
	}
	slices.SortFunc(out, func(a, b *PodStatus) int { return newestFirst(a.CreatedAt, b.CreatedAt, a.ID, b.ID) })
	return out
}

// Containers lists the containers that are whole, newest first.
func (ix *index) Containers() []*ContainerStatus { return statuses(ix.allContainers()) }

// ContainersOf lists the containers of one pod, by its full ID, that are whole, newest
// first.
func (ix *index) ContainersOf(podID string) []*ContainerStatus {
	s := ix.podByID(podID)
	if s == nil {
		return nil
	}
	return statuses(ix.containersOf(s))
}

func statuses(all []*Container) []*ContainerStatus {
	out := make([]*ContainerStatus, 0, len(all))
	for _, c := range all {
		if st := c.status.Load(); st != nil {
			out = append(out, st)
		}
	}
	slices.SortFunc(out, func(a, b *ContainerStatus) int { return newestFirst(a.CreatedAt, b.CreatedAt, a.ID, b.ID) })
	return out
}

func newestFirst(a, b time.Time, idA, idB string) int {
	return cmp.Or(b.Compare(a), strings.Compare(idA, idB))
}
