package sandbox

import (
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// recordVersion is written into every record; a reader refuses a newer one.
const recordVersion = 1

// intent is how far the daemon wants, or wanted, a pod or container to be.
type intent string

const (
	intentMaking   intent = "making"   // a daemon that finds this after a crash destroys it
	intentReady    intent = "ready"    // made whole; facts tell the rest
	intentStopping intent = "stopping" // pods: being released; a daemon that finds this finishes it
	intentStopped  intent = "stopped"  // pods: released, only the record and the layers are left
	intentRemoving intent = "removing" // released and being erased; a daemon that finds this finishes it
)

// doomed is what a daemon finds of a call that was cut short and destroys: what
// is left may lack any part.
func (i intent) doomed() bool { return i == intentMaking || i == intentRemoving }

// podRecord is pod.json.
type podRecord struct {
	Version    int            `json:"version"`
	ID         string         `json:"id"`
	Intent     intent         `json:"intent"`
	Config     configJSON     `json:"config"`
	Handler    string         `json:"handler,omitempty"`
	CreatedAt  time.Time      `json:"created_at"`
	BootID     string         `json:"boot_id"`
	ShimID     string         `json:"shim_id,omitempty"`
	Network    *NetworkResult `json:"network,omitempty"`
	MadeCgroup string         `json:"made_cgroup,omitempty"` // the highest cgroup, the parent or one above it, that was made for this pod and goes with it
	PausePID   int            `json:"pause_pid,omitempty"`
	PauseStart uint64         `json:"pause_start,omitempty"`

	config *runtimeapi.PodSandboxConfig
	netns  string // path of the pinned network namespace, "" on the host network
}

// containerRecord is container.json.
type containerRecord struct {
	Version int        `json:"version"`
	ID      string     `json:"id"`
	PodID   string     `json:"pod_id"`
	Intent  intent     `json:"intent"`
	Config  configJSON `json:"config"`
	ImageID string     `json:"image_id"`
	// ImageRef is the digest in a registry that the image had when the container was
	// made; it stays true when the image goes. "" when there was none, and in records
	// of a daemon that did not write it.
	ImageRef   string        `json:"image_ref,omitempty"`
	Layers     []string      `json:"layers"`
	Volumes    []imageVolume `json:"volumes,omitempty"`
	LogPath    string        `json:"log_path,omitempty"`
	StopSignal int           `json:"stop_signal"`
	CreatedAt  time.Time     `json:"created_at"`
	BootID     string        `json:"boot_id"`
	// LostAt is when the process was found gone without a recorded exit: the only
	// fact that nobody else can write down.
	LostAt time.Time       `json:"lost_at,omitzero"`
	Spec   json.RawMessage `json:"spec,omitempty"`
	// Unenforced are limits without effect here, in words for the operator.
	Unenforced []string `json:"unenforced,omitempty"`
	// UpdateAnnotations came with the last update of the resources that had some.
	UpdateAnnotations map[string]string `json:"update_annotations,omitempty"`
	// Took tells how long the stages of the creation took, for the operator.
	Took []stageTime `json:"took,omitempty"`

	config    *runtimeapi.ContainerConfig
	described *specFacts // read from Spec once; nil: not yet
}

// stageTime is how long one stage of a creation took, in microseconds.
type stageTime struct {
	Stage  string `json:"stage"` // rootfs, spec or create
	Micros int64  `json:"us"`
}

// took notes that a stage has ended which began at since, and gives the time now.
func (r *containerRecord) took(stage string, since time.Time) time.Time {
	now := time.Now()
	r.Took = append(r.Took, stageTime{stage, now.Sub(since).Microseconds()})
	return now
}

// imageVolume is an image mounted read-only into a container.
type imageVolume struct {
	Target string   `json:"target"` // on the host
	Layers []string `json:"layers"`
	// ImageID is as in containerRecord; "" in records of a daemon that did not write it.
	ImageID string `json:"image_id,omitempty"`
}

// configJSON carries a CRI message as the JSON of its proto definition, so that
// a record keeps every field the kubelet sent and can be read by a human.
type configJSON json.RawMessage

// MarshalJSON implements [json.Marshaler].
func (c configJSON) MarshalJSON() ([]byte, error) { return json.RawMessage(c).MarshalJSON() }

// UnmarshalJSON implements [json.Unmarshaler].
func (c *configJSON) UnmarshalJSON(b []byte) error { return (*json.RawMessage)(c).UnmarshalJSON(b) }

func encodeConfig(m proto.Message) (configJSON, error) {
	b, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode config: %w", err)
	}
	return configJSON(b), nil
}

// decodeConfig ignores unknown fields: a record written by a newer daemon must
// not lose the pod when the node is rolled back.
func decodeConfig(c configJSON, into proto.Message) error {
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(c, into); err != nil {
		return fmt.Errorf("decode config: %w", err)
	}
	return nil
}

func (r *podRecord) decode() error {
	if r.Version > recordVersion {
		return fmt.Errorf("record version %d is newer than %d: start a berthd at least as new as the one that wrote it", r.Version, recordVersion)
	}
	r.config = &runtimeapi.PodSandboxConfig{}
	return decodeConfig(r.Config, r.config)
}

func (r *containerRecord) decode() error {
	if r.Version > recordVersion {
		return fmt.Errorf("record version %d is newer than %d: start a berthd at least as new as the one that wrote it", r.Version, recordVersion)
	}
	r.config = &runtimeapi.ContainerConfig{}
	return decodeConfig(r.Config, r.config)
}
