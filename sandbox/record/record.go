package record

import (
	"encoding/json"
	"fmt"
	"time"
)

// Version is written into every record; see [CheckVersion].
const Version = 1

// The names of the files in the directory of a pod or container.
const (
	PodFile       = "pod.json"
	ContainerFile = "container.json"
)

// CheckVersion refuses the record of a daemon newer than this one.
func CheckVersion(v int) error {
	if v > Version {
		return fmt.Errorf("record version %d is newer than %d: start a berthd at least as new as the one that wrote it", v, Version)
	}
	return nil
}

// Intent is how far the daemon wants, or wanted, a pod or container to be.
type Intent string

// The intents. A container is only ever making, ready or removing.
const (
	Making   Intent = "making"   // a daemon that finds this after a crash destroys it
	Ready    Intent = "ready"    // made whole; the shim's records tell the rest
	Stopping Intent = "stopping" // being released; a daemon that finds this finishes it
	Stopped  Intent = "stopped"  // released, only the record and the writable layers are left
	Removing Intent = "removing" // released and being erased; a daemon that finds this finishes it
)

// CutShort reports whether the call that wrote this was cut short, when a daemon finds
// it at its start. What is left may lack any part and has to be destroyed.
func (i Intent) CutShort() bool { return i == Making || i == Removing }

// Pod is pod.json.
type Pod struct {
	Version int             `json:"version"`
	ID      string          `json:"id"`
	Intent  Intent          `json:"intent"`
	Config  json.RawMessage `json:"config"` // runtimeapi.PodSandboxConfig
	Handler string          `json:"handler,omitempty"`
	// Runtime is what Handler meant when the pod was made; nil: the built-in runtime
	// without settings of its own.
	Runtime   *Runtime  `json:"runtime,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	BootID    string    `json:"boot_id"`           // of the boot in which it was made
	ShimID    string    `json:"shim_id,omitempty"` // the shim that holds the pause process
	Network   *Network  `json:"network,omitempty"` // nil before it was attached, and on the host network
	// MadeCgroup is the highest cgroup, the parent or one above it, that was made for
	// this pod and goes with it; "" when all were there before.
	MadeCgroup string `json:"made_cgroup,omitempty"`
	// SELinuxLevel is the level of the pod's labels, such as s0:c1,c2, which no other pod
	// has unless it asked for the same; "" on a host without SELinux, and in records of a
	// daemon that did not write it.
	SELinuxLevel string `json:"selinux_level,omitempty"`
	// SandboxLayers are the ChainIDs, lowest first, of Runtime.Image as the container that
	// stands for the pod got it; nil without one, and in records of a daemon that did not
	// write them.
	SandboxLayers []string `json:"sandbox_layers,omitempty"`
	PausePID      int      `json:"pause_pid,omitempty"`
	PauseStart    uint64   `json:"pause_start,omitempty"` // start time of PausePID in clock ticks since boot
}

// Runtime is what a runtime handler means.
type Runtime struct {
	// Shim is the program of a foreign shim; "" is the built-in runtime.
	Shim    string         `json:"shim,omitempty"`
	Options map[string]any `json:"options,omitempty"`
	// SocketDir is where the shim is asked to make its sockets; "" leaves them where it
	// makes them.
	SocketDir string `json:"socket_dir,omitempty"`
	// ShimCgroup is the cgroup of the pod's foreign shim, as a container's is written in the
	// runtime-spec; of a handler the cgroup above that, or "pod" for the pod's own. "" leaves
	// the shim beside berth's.
	ShimCgroup string `json:"shim_cgroup,omitempty"`
	// Annotations are the keys that the runtime may see, see package oci.
	Annotations []string `json:"annotations,omitempty"`
	// NoHostDevices keeps the host's devices out of privileged containers.
	NoHostDevices bool `json:"no_host_devices,omitempty"`
	// AllDevicesAllowed lets these use any device all the same.
	AllDevicesAllowed bool `json:"all_devices_allowed,omitempty"`
	// Devices are the host's that each container gets, HOST[:CONTAINER][:ACCESS].
	Devices []string `json:"devices,omitempty"`
	// AllowedDevices are paths of those that pods may ask for beside the node's.
	AllowedDevices []string `json:"allowed_devices,omitempty"`
	// NoContainer leaves out the container that stands for the pod.
	NoContainer bool `json:"no_container,omitempty"`
	// Image is that container's; "": a program of berth's own.
	Image string `json:"image,omitempty"`
}

// Network is what the network gave a pod.
type Network struct {
	IPs []string        `json:"ips"`           // primary first
	Raw json.RawMessage `json:"raw,omitempty"` // the result of the plugins
}

// Container is container.json.
type Container struct {
	Version int             `json:"version"`
	ID      string          `json:"id"`
	PodID   string          `json:"pod_id"`
	Intent  Intent          `json:"intent"`
	Config  json.RawMessage `json:"config"` // runtimeapi.ContainerConfig
	ImageID string          `json:"image_id"`
	// ImageRef is the digest in a registry that the image had when the container was
	// made; it stays true when the image goes. "" when there was none, and in records
	// of a daemon that did not write it.
	ImageRef   string    `json:"image_ref,omitempty"`
	Layers     []string  `json:"layers"` // ChainIDs, lowest first
	Volumes    []Volume  `json:"volumes,omitempty"`
	LogPath    string    `json:"log_path,omitempty"` // absolute
	StopSignal int       `json:"stop_signal"`        // the kernel's number
	CreatedAt  time.Time `json:"created_at"`
	BootID     string    `json:"boot_id"` // of the boot in which it was made
	// LostAt is when the process was found gone without an exit that the shim had
	// recorded: the one fact that only the daemon can write down.
	LostAt time.Time       `json:"lost_at,omitzero"`
	Spec   json.RawMessage `json:"spec,omitempty"` // the OCI runtime spec
	// StopTold: plugins of the node were told that the container has ended.
	StopTold bool `json:"stop_told,omitempty"`
	// Unenforced are limits without effect on this node, in words for the operator.
	Unenforced []string `json:"unenforced,omitempty"`
	// UpdateAnnotations came with the last update of the resources that had some.
	UpdateAnnotations map[string]string `json:"update_annotations,omitempty"`
	// Took says how long the stages of the creation took, for the operator.
	Took []StageTime `json:"took,omitempty"`
}

// StageTime is how long one stage of a creation took.
type StageTime struct {
	Stage  string `json:"stage"` // rootfs, spec or create
	Micros int64  `json:"us"`    // microseconds
}

// Volume is an image mounted read-only into a container.
type Volume struct {
	Target string   `json:"target"` // the mount's place on the host
	Layers []string `json:"layers"`
	// ImageID is as in [Container]; "" in records of a daemon that did not write it.
	ImageID string `json:"image_id,omitempty"`
}

// Held are all layers that a container keeps on disk.
func (c *Container) Held() []string {
	out := append([]string(nil), c.Layers...)
	for _, v := range c.Volumes {
		out = append(out, v.Layers...)
	}
	return out
}
