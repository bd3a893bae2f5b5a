package shimapi

import (
	"encoding/json"
	"time"
)

// Methods about shims of containerd, which the program [ForeignProgram] drives.
const (
	// MethodStartSandbox starts the foreign shim of a pod whose pause process runs and
	// whose network is attached. Containers of the pod are made by that shim from then on.
	MethodStartSandbox = "start-sandbox"
	// MethodReclaim ends what a foreign shim left that nobody drives any more.
	MethodReclaim = "reclaim"
	// MethodStats asks a foreign shim what a container uses. The body is an [IDRequest].
	MethodStats = "stats"
)

// The programs that speak this wire. The second one can drive foreign shims as well; the
// first is kept small, because every container's first process is executed from it.
const (
	Program        = "berth-shim"
	ForeignProgram = "berth-shim-v2"
)

// ExitOptions is the exit code of [ForeignProgram] when it is asked what a runtime can do whose
// options it does not understand: no pod can be run with them.
const ExitOptions = 3

// Runtime is a foreign shim: a program that speaks the shim API of containerd, and what it
// is told.
type Runtime struct {
	Shim    string         `json:"shim"` // absolute path of the program
	Options map[string]any `json:"options,omitempty"`
	// SocketDir is where shims that ask for it make their sockets; "" leaves them theirs.
	SocketDir string `json:"socket_dir,omitempty"`
	// ShimCgroup is the cgroup of a pod's shim alone, as the runtime-spec has one for a
	// container: an absolute path, or slice:prefix:name where cgroups are systemd's; "" leaves
	// the shim in that of the process which starts it.
	ShimCgroup string `json:"shim_cgroup,omitempty"`
}

// Bundle is the directory that a foreign shim finds a container in (config.json and rootfs,
// see the runtime-spec's bundle.md). Its last element is ID.
type Bundle struct {
	ID      string  `json:"id"`
	Dir     string  `json:"dir"`
	Runtime Runtime `json:"runtime"`
	// Ended tells that the end of the container is on record: its cgroup is gone with it.
	Ended bool `json:"ended,omitempty"`
}

// StartSandboxRequest starts the foreign shim of a pod. Bundle.Dir exists. Spec is the
// config.json of the sandbox container, whose rootfs is at Bundle.Dir/rootfs. Without
// Container only the shim is started, and reads of Spec nothing but the annotations.
type StartSandboxRequest struct {
	Bundle    Bundle          `json:"bundle"`
	Spec      json.RawMessage `json:"spec"`
	Container bool            `json:"container"`
	// Program is the sandbox container's root filesystem if that is to have nothing but a
	// program of berth's own, /pause, which waits; "": the rootfs is there. The shim makes it.
	Program string `json:"program,omitempty"`
}

// StartSandboxResponse names the processes that the sandbox has.
type StartSandboxResponse struct {
	ShimPID int `json:"shim_pid"` // 0: the shim does not tell
	PID     int `json:"pid"`      // of the sandbox container; 0 without one
}

// ReclaimRequest ends what is left of containers and, at last, of the shim, whoever drove
// it. All of Containers are in the pod.
type ReclaimRequest struct {
	Pod        Bundle   `json:"pod"`
	Containers []Bundle `json:"containers,omitempty"`
}

// Usage is what a container uses, as its runtime tells. A nil value is not known.
type Usage struct {
	At          time.Time `json:"at"`
	CPU         *uint64   `json:"cpu,omitempty"`      // nanoseconds
	Memory      *uint64   `json:"memory,omitempty"`   // bytes
	Inactive    uint64    `json:"inactive,omitempty"` // bytes of Memory that are cache not used for long
	MemoryLimit *uint64   `json:"memory_limit,omitempty"`
	RSS         *uint64   `json:"rss,omitempty"` // bytes
	Faults      *uint64   `json:"faults,omitempty"`
	MajorFaults *uint64   `json:"major_faults,omitempty"`
	PIDs        *uint64   `json:"pids,omitempty"`
}
