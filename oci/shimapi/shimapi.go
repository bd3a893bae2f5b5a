package shimapi

import (
	"encoding/json"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/idmap"
)

// Version is the wire's version. The wire only grows: a field is never renamed
// or reused, an unknown field is ignored, an unknown method is [KindInvalid].
const Version = 1

// InitName is what berth's own program is called in a container, see package tinyinit.
const InitName = ".berth-init"

// Methods of a shim. The body of each is the Request type of that name, or an [IDRequest]; the
// response is the Response type of that name, or empty.
const (
	MethodHello      = "hello"
	MethodRunPod     = "run-pod"
	MethodStopPod    = "stop-pod"
	MethodRemovePod  = "remove-pod"
	MethodCreate     = "create"
	MethodStart      = "start"
	MethodKill       = "kill"
	MethodDelete     = "delete"
	MethodExec       = "exec"
	MethodResize     = "resize"
	MethodAttach     = "attach"
	MethodCloseStdin = "close-stdin"
	MethodReopen     = "reopen"
	MethodUpdate     = "update"
	MethodUpdatePod  = "update-pod"
	MethodList       = "list"
	MethodWatch      = "watch"
	MethodShutdown   = "shutdown"
)

// Request is the frame that a client sends, once per connection.
type Request struct {
	Method string          `json:"method"`
	Body   json.RawMessage `json:"body,omitempty"`
	// Stages asks for the stages of the call in its first response.
	Stages bool `json:"stages,omitempty"`
}

// Response is the frame that a shim sends. [MethodExec] sends two (started, exited),
// [MethodAttach] two (attached, ended), and [MethodWatch] one per event until the connection
// ends. Its body is then an [Event].
type Response struct {
	Error  *Error          `json:"error,omitempty"`
	Body   json.RawMessage `json:"body,omitempty"`
	Stages []Stage         `json:"stages,omitempty"`
}

// Stage is a part of a call, for traces.
type Stage struct {
	Name  string    `json:"name"`
	Begin time.Time `json:"begin"`
	End   time.Time `json:"end"`
}

// Kind classifies an [Error] so that the daemon need not read its text.
type Kind string

const (
	KindNotFound   Kind = "not-found"
	KindExists     Kind = "exists"
	KindNotRunning Kind = "not-running"
	KindInvalid    Kind = "invalid"
	// KindStartFailed: the process of the container could not be started for a
	// reason the user can mend (missing file, no execute permission, bad cwd).
	KindStartFailed Kind = "start-failed"
	KindInternal    Kind = "internal"
	// KindShortage: the shim or the host lacks processes, memory or descriptors, so the
	// call may work later as it is. Shims older than it say [KindInternal], which it is like
	// in all else.
	KindShortage Kind = "shortage"
)

// Error is an error that the shim has returned.
type Error struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`
}

// Error returns the message only. Code gets the kind by [errors.As].
func (e *Error) Error() string { return e.Message }

// HelloResponse identifies the shim.
type HelloResponse struct {
	ID      string `json:"id"`
	PID     int    `json:"pid"`
	Wire    int    `json:"wire"`
	Version string `json:"version"` // berth's version, which decides whether new pods may join
	// Libcontainer is the version of its module; "", of a shim older than the field.
	Libcontainer string `json:"libcontainer,omitempty"`
	// Foreign: the program is [ForeignProgram].
	Foreign bool `json:"foreign,omitempty"`
	// Journal is the name of the file in the shim's directory that tells its successor how far
	// each log got; "": it keeps none. No successor may read one that it did not keep.
	Journal string `json:"journal,omitempty"`
}

// IDMap is one line of a user namespace's UID or GID map.
type IDMap = idmap.Map

// RunPodRequest starts the pause process of a pod in new namespaces.
type RunPodRequest struct {
	ID       string `json:"id"`
	Dir      string `json:"dir"`      // durable directory of the pod; the shim writes Dir/status.json
	Hostname string `json:"hostname"` // set in the new UTS namespace; "" leaves it
	NewNet   bool   `json:"new_net"`  // loopback is brought up, the namespace bound to NetNSPath
	NewIPC   bool   `json:"new_ipc"`
	NewUTS   bool   `json:"new_uts"`
	NewPID   bool   `json:"new_pid"` // pause is PID 1 and reaps

	UIDMaps []IDMap `json:"uid_maps,omitempty"` // not empty: a new user namespace
	GIDMaps []IDMap `json:"gid_maps,omitempty"`

	NetNSPath string            `json:"netns_path,omitempty"`
	Sysctls   map[string]string `json:"sysctls,omitempty"` // dotted names, written inside the new namespaces
	// CgroupPath is the pod sandbox's own cgroup, relative to the mount. On v2 pause is
	// cloned into it. On v1 it is made, in [SandboxHierarchy] alone, and stays empty: a
	// join costs milliseconds there, and what looks for it (cAdvisor) needs no process in it.
	CgroupPath string `json:"cgroup_path,omitempty"`
	// Systemd says that CgroupPath is slice:prefix:name, a scope that systemd makes for pause.
	Systemd bool `json:"systemd,omitempty"`
	// Limits are those of the cgroup that the pod's containers are made in; nil when it is
	// not berth's to limit, or nothing limits it.
	Limits      *PodLimits `json:"limits,omitempty"`
	OOMScoreAdj int        `json:"oom_score_adj"`
	// User is what pause becomes; nil, of a daemon older than the field: an
	// unprivileged user where the user namespace maps it.
	User     *PauseUser `json:"user,omitempty"`
	AppArmor string     `json:"apparmor,omitempty"` // profile of pause; "" is unconfined
	SELinux  string     `json:"selinux,omitempty"`  // label of pause; "" leaves the shim's
}

// PodLimits are the limits of the cgroup above those of a pod's containers. Path is from
// the root of the hierarchy or hierarchies; the cgroup is made where it is not there yet.
type PodLimits struct {
	Path      string                `json:"path"`
	Resources *specs.LinuxResources `json:"resources"`
}

// SandboxHierarchy is the v1 hierarchy that the cgroups of pod sandboxes are made in, one
// that cAdvisor watches.
const SandboxHierarchy = "cpu"

// PauseUser is a user and groups in the pod's user namespace.
type PauseUser struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"` // at most MaxPauseGroups
}

// MaxPauseGroups is how many supplementary groups a pause process can have.
const MaxPauseGroups = 1024

// PauseID is the user and group of a pause process when a pod names none: those of
// the pause image of the Kubernetes project.
const PauseID = 65535

// RunPodResponse names the pause process.
type RunPodResponse struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // field 22 of /proc/PID/stat, clock ticks since boot: PID+StartTime is unique
}

// IDRequest is the body of StopPod (kill the pause process, wait, unmount the network
// namespace), RemovePod (forget the pod), Start, Delete (kill what is left, remove state and
// cgroup; can be repeated), CloseStdin and Reopen. For an unknown ID StopPod, RemovePod and
// Delete succeed, the others fail with [KindNotFound].
type IDRequest struct {
	ID string `json:"id"`
}

// CreateRequest makes a container, up to the point where its command would be executed.
type CreateRequest struct {
	Pod       string          `json:"pod"`
	ID        string          `json:"id"`
	Dir       string          `json:"dir"`     // durable directory of the container; the shim writes Dir/status.json
	Spec      json.RawMessage `json:"spec"`    // runtime-spec; root.path absolute; process.terminal decides on a pty
	Systemd   bool            `json:"systemd"` // cgroupsPath is slice:prefix:name for the systemd driver
	Scope     *Scope          `json:"scope,omitempty"`
	Stdin     bool            `json:"stdin"`
	StdinOnce bool            `json:"stdin_once"`
	LogRoot   string          `json:"log_root,omitempty"` // directory above LogPath that no link in it may lead out of; "": LogPath's own
	LogPath   string          `json:"log_path,omitempty"` // CRI log file; "": output is read and dropped (attach still sees it)
	LogLimits LogLimits       `json:"log_limits,omitzero"`
}

// LogLimits bound a container's log; 0 is no limit.
type LogLimits struct {
	Size int64 `json:"size,omitempty"` // bytes, of one file: until it is opened again
	Rate int64 `json:"rate,omitempty"` // bytes a second; the container waits
}

// Scope says what systemd, where it makes the container's cgroup, does as the node shuts
// down. Without one it does nothing, and kills what still runs in its last step.
type Scope struct {
	// StopTimeout is what a container has from its SIGTERM to its SIGKILL.
	StopTimeout time.Duration `json:"stop_timeout"`
	// StopSignal is what takes SIGTERM's place; 0, of a daemon older than the field: nothing.
	StopSignal int `json:"stop_signal,omitempty"`
}

// At a shutdown of the node systemd stops the scopes of containers before those of shims
// and pauses: a shim records how its containers end, and pause is PID 1 of containers that
// share their processes. Containers do not name the scope of their shim, because it may have
// been replaced since. Instead the first are ordered after ContainersSlice and the others
// before it, which takes part in each shutdown, with nothing in it. The shims' own slice is
// the one above. See systemd.unit(5), After=, and systemd.slice(5).
const (
	ShimSlice       = "system-berth.slice"
	ContainersSlice = "system-berth-containers.slice"
)

// CreateResponse names the container's first process, which waits for Start.
type CreateResponse struct {
	PID         int               `json:"pid"`
	StartTime   uint64            `json:"start_time"`
	CgroupPaths map[string]string `json:"cgroup_paths"` // controller → absolute path; "" on v2
	// Handover is what a replacement of the shim would need. The files of the frame belong
	// to it; the daemon keeps both. Without it the daemon asks by [MethodHandoverState].
	Handover *HandoverState `json:"custody,omitempty"`
}

// KillRequest sends a signal to the first process of a container or of an exec session, or
// with All to every process of its cgroup. Signals are the kernel's numbers, 0 to 64.
type KillRequest struct {
	ID     string `json:"id"`
	ExecID string `json:"exec_id,omitempty"`
	Signal int    `json:"signal"`
	All    bool   `json:"all"`
}

// ExecRequest runs a process in a running container. The three files of the frame are its
// stdin, stdout and stderr. With Terminal there are none, and the master of the terminal
// comes with the first response. ExecID has 1 to 64 letters, digits, - or _, and is unique
// among the container's running sessions.
type ExecRequest struct {
	ID       string         `json:"id"`
	ExecID   string         `json:"exec_id"`
	Process  *specs.Process `json:"process"` // args, env, cwd, user, capabilities, terminal, console size
	Terminal bool           `json:"terminal"`
	// Timeout, when positive, kills the whole exec tree after that long; the
	// exit then says TimedOut. The tree is a cgroup of its own, so that what
	// daemonized is killed too. When the client hangs up the tree is killed as well.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// ExecStarted is the first response to an exec, [ExitStatus] the second.
type ExecStarted struct {
	PID int `json:"pid"`
}

// ExitStatus is how a process ended. Code is the exit code, or 128+Signal.
type ExitStatus struct {
	Code       int       `json:"code"`
	Signal     int       `json:"signal,omitempty"`
	FinishedAt time.Time `json:"finished_at"`
	TimedOut   bool      `json:"timed_out,omitempty"`
}

// ResizeRequest sets the size of a container's terminal. The terminal of an exec session is
// the client's own to resize, since only the client has its master: with ExecID the request
// fails with [KindInvalid].
type ResizeRequest struct {
	ID     string `json:"id"`
	ExecID string `json:"exec_id,omitempty"`
	Width  uint16 `json:"width"`
	Height uint16 `json:"height"`
}

// AttachRequest connects a client with the streams of a running container. The frame has one
// file per true flag, in the order stdin (a read end), stdout, stderr (write ends). With a
// terminal all output is stdout. The first response comes when the streams are connected,
// the second when the container has ended. A client detaches by closing the connection. A
// client that is too slow for the output is cut off.
type AttachRequest struct {
	ID     string `json:"id"`
	Stdin  bool   `json:"stdin"`
	Stdout bool   `json:"stdout"`
	Stderr bool   `json:"stderr"`
}

// UpdateRequest changes the limits of a container's cgroup. OOMScoreAdj, unless nil, is set
// for its processes, except those that have changed their own.
type UpdateRequest struct {
	ID          string                `json:"id"`
	Resources   *specs.LinuxResources `json:"resources"`
	OOMScoreAdj *int                  `json:"oom_score_adj,omitempty"`
}

// UpdatePodRequest changes the limits of a running pod's cgroup.
type UpdatePodRequest struct {
	ID     string    `json:"id"`
	Limits PodLimits `json:"limits"`
}

// Status is the state of a pause process or a container.
type Status string

const (
	StatusCreated Status = "created" // waits for Start
	StatusRunning Status = "running"
	StatusStopped Status = "stopped"
)

// Record is what has happened to a pause process or a container, also on disk as
// Dir/status.json. The shim is its only writer. It writes an exit durably before it reports
// it.
type Record struct {
	Version      int               `json:"version"`
	ID           string            `json:"id"`
	Pod          string            `json:"pod,omitempty"` // "" for a pause process
	Status       Status            `json:"status"`
	PID          int               `json:"pid"`
	StartTime    uint64            `json:"start_time"`
	BootID       string            `json:"boot_id"`
	CgroupPaths  map[string]string `json:"cgroup_paths,omitempty"`
	CreatedAt    time.Time         `json:"created_at"`
	StartedAt    time.Time         `json:"started_at,omitzero"`
	FinishedAt   time.Time         `json:"finished_at,omitzero"`
	ExitCode     int               `json:"exit_code"`
	Signal       int               `json:"signal,omitempty"`
	OOMKilled    bool              `json:"oom_killed,omitempty"`    // the OOM killer ended the first process, or a child whose death is its code
	OOMKills     uint64            `json:"oom_kills,omitempty"`     // kills in the cgroup, children included
	RefusedForks uint64            `json:"refused_forks,omitempty"` // by a limit of PIDs, as the container's own cgroup counted them until its end
	Reason       string            `json:"reason,omitempty"`        // ReasonStartError or ReasonUnknown
	Message      string            `json:"message,omitempty"`
	StdinClosed  bool              `json:"stdin_closed,omitempty"` // the input has ended: whoever has the write end open closes it
}

// EndIsTold tells that it is known that the container has ended. Of one whose foreign shim died
// that may only be taken for granted.
func (r Record) EndIsTold() bool { return r.Status == StatusStopped && r.Reason != ReasonUnknown }

// ListResponse has the records of all pods and containers of a shim.
type ListResponse struct {
	Pods       []Record `json:"pods"`
	Containers []Record `json:"containers"`
}

// Event is a change of a record; Record is its content after the change. A watcher first gets
// one event for every pod and container, with Replay set, then one for each change.
type Event struct {
	Kind   string `json:"kind"` // EventCreated and the like
	Replay bool   `json:"replay,omitempty"`
	Record Record `json:"record"`
}
