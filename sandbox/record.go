package sandbox

import (
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
	"berth/sandbox/record"
)

// podRecord is pod.json with what is derived from it once.
type podRecord struct {
	record.Pod

	config     *runtimeapi.PodSandboxConfig
	netns      string          // path of the pinned network namespace, "" on the host network
	uids, gids []shimapi.IDMap // of the pod's user namespace; nil when it uses the host's users
}

// derive fills in what follows from the configuration and the ID. It never changes.
func (r *podRecord) derive(paths layout) {
	if !hostNetwork(r.config) {
		r.netns = paths.netnsPath(r.ID)
	}
	r.uids, r.gids = userMaps(r.config)
}

// containerRecord is container.json with what is derived from it once.
type containerRecord struct {
	record.Container

	config    *runtimeapi.ContainerConfig
	described *specFacts // what statuses repeat of Spec
}

// setSpec records the spec that the container runs with.
func (r *containerRecord) setSpec(spec json.RawMessage) {
	r.Spec, r.described = spec, describeSpec(spec)
}

// persistence says what a change of a record does to its file.
type persistence int

const (
	// durably writes the file so that it outlives a crash of the machine, then changes
	// the record in memory. On an error neither changes.
	durably persistence = iota
	// written is durably without the flush of the disk: a crash of the machine may bring
	// the former record back, unless a fact that came later outlived it.
	written
	// making is for a record that says no more than that something is being made. A crash
	// of the machine may leave it unreadable, which says the same.
	making
	// ifPossible changes the record in memory even when the file can't be written: a
	// full disk must not keep a pod from going, and the next daemon begins anew.
	ifPossible
	// inMemory leaves the file as it is: the next change writes it.
	inMemory
)

// stored is a record in memory and in its file. Readers take no lock: a record is
// replaced as a whole, never written to. All writers go through change, one at a time,
// so that none can overwrite a field that another has set meanwhile.
type stored[T any] struct {
	file   string
	writer sync.Mutex // held across the write of the file; taken before mu of the owner
	value  atomic.Pointer[T]
}

// get is the record as it is now, not to be changed.
func (s *stored[T]) get() *T { return s.value.Load() }

// change applies edit to a copy of the record, which then takes its place. edit is
// called with the writers' lock held and must not block.
func (s *stored[T]) change(how persistence, edit func(*T)) error {
	s.writer.Lock()
	defer s.writer.Unlock()
	next := *s.value.Load()
	edit(&next)
	var err error
	switch how {
	case durably:
		err = atomicfile.Write(s.file, &next)
	case written, ifPossible:
		err = atomicfile.WriteOrdered(s.file, &next)
	case making:
		err = atomicfile.WriteVolatile(s.file, &next)
	}
	if err == nil || how == ifPossible {
		s.value.Store(&next)
	}
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return nil
}

// encodeConfig gives a message of the CRI as the JSON of its proto definition.
func encodeConfig(m proto.Message) (json.RawMessage, error) {
	b, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode config: %w", err)
	}
	return b, nil
}

// decodeConfig ignores unknown fields: a record written by a newer daemon must
// not lose the pod when the node is rolled back.
func decodeConfig(c json.RawMessage, into proto.Message) error {
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(c, into); err != nil {
		return fmt.Errorf("decode config: %w", err)
	}
	return nil
}

// decode derives what a record read from disk lacks.
func (r *podRecord) decode() error {
	if err := record.CheckVersion(r.Version); err != nil {
		return err
	}
	r.config = &runtimeapi.PodSandboxConfig{}
	return decodeConfig(r.Config, r.config)
}

// decode derives what a record read from disk lacks.
func (r *containerRecord) decode() error {
	if err := record.CheckVersion(r.Version); err != nil {
		return err
	}
	r.described = describeSpec(r.Spec)
	r.config = &runtimeapi.ContainerConfig{}
	return decodeConfig(r.Config, r.config)
}
