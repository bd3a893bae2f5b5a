package shimapi

// Methods of the handover. The daemon keeps the [HandoverState] of each pod and container, and
// duplicates of its files. Should the shim die, its replacement adopts them. The strings are
// older than the names.
const (
	MethodHandoverState  = "lend"
	MethodHandoverStates = "lend-all"
	MethodAdopt          = "adopt"
	MethodReportExit     = "tell-exit"
)

// Names of the files that come with a [HandoverState].
const (
	FileStdin   = "stdin"   // write end of the pipe
	FileStdout  = "stdout"  // read end
	FileStderr  = "stderr"  // read end
	FileConsole = "console" // master of the terminal
	FilePidfd   = "pidfd"   // the first process, non-blocking
)

// HandoverState is what a shim needs, besides status.json and libcontainer's state, to adopt
// a pod or container. It is the response to [MethodHandoverState], whose body is an
// [IDRequest], and part of the response to [MethodCreate]. The files come with the frame. They
// are duplicates: a pipe stays open as long as any process has an end of it.
//
// [MethodHandoverStates] has one such response for each pod and container that the shim lists,
// and then a response without a body. A state that can't be given now is left out, to be asked
// for by itself. Shims that are older do not know this method.
type HandoverState struct {
	ID        string `json:"id"`
	Pod       string `json:"pod,omitempty"` // "": this is a pod
	Dir       string `json:"dir"`
	NetNSPath string `json:"netns_path,omitempty"` // of pods; "": there is none

	Command   string    `json:"command,omitempty"`
	LogRoot   string    `json:"log_root,omitempty"` // as in [CreateRequest]
	LogPath   string    `json:"log_path,omitempty"`
	LogLimits LogLimits `json:"log_limits,omitzero"`
	Terminal  bool      `json:"terminal,omitempty"`
	Stdin     bool      `json:"stdin,omitempty"`
	StdinOnce bool      `json:"stdin_once,omitempty"`
	Files     []string  `json:"files,omitempty"` // File… of each file of the frame, in order

	// Sandbox is what the pod's foreign shim was started with; nil: it has none.
	Sandbox *StartSandboxRequest `json:"sandbox,omitempty"`
	// Bundle is that of a container which a foreign shim has made; "" for all others.
	Bundle string `json:"bundle,omitempty"`
}

// AdoptRequest makes the replacement of a dead shim adopt a pod or container. The error is
// [KindNotFound] if the process, its record or its state is gone, and [KindInvalid] if a stream
// is. Those two are final, so the daemon ends what is left; after any other it tries again.
type AdoptRequest struct {
	HandoverState
	// Exit is how the process has ended meanwhile, if the daemon has reaped it.
	Exit *ExitStatus `json:"exit,omitempty"`
}

// ReportExitRequest reports how an adopted container has ended. Before Linux 6.15 only the
// process that has reaped it knows.
type ReportExitRequest struct {
	ID   string     `json:"id"`
	Exit ExitStatus `json:"exit"`
}
