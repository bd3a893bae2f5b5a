package shimapi

// Methods of the hand-over: what a daemon keeps of a shim's pods and containers
// so that, should the shim die, the next one takes them over.
const (
	MethodHandoverState = "lend"
	MethodAdopt         = "adopt"
	MethodReportExit    = "tell-exit"
)

// What the files that come with a [HandoverState] are.
const (
	FileStdin   = "stdin"   // write end of the pipe
	FileStdout  = "stdout"  // read end
	FileStderr  = "stderr"  // read end
	FileConsole = "console" // master of the terminal
	FilePidfd   = "pidfd"   // the first process, non-blocking
)

// HandoverState is what is needed, besides status.json and libcontainer's state, to
// take a pod or container over. It is the answer to [MethodHandoverState], whose body is
// an [IDRequest], and part of the answer to create; the frame carries the files.
// They are duplicates: a pipe lives on while any holder does.
type HandoverState struct {
	ID        string `json:"id"`
	Pod       string `json:"pod,omitempty"` // "": a pod's pause
	Dir       string `json:"dir"`
	NetNSPath string `json:"netns_path,omitempty"` // pods; "": none was pinned

	Command   string   `json:"command,omitempty"`
	LogRoot   string   `json:"log_root,omitempty"` // as in [CreateRequest]
	LogPath   string   `json:"log_path,omitempty"`
	Terminal  bool     `json:"terminal,omitempty"`
	Stdin     bool     `json:"stdin,omitempty"`
	StdinOnce bool     `json:"stdin_once,omitempty"`
	Files     []string `json:"files,omitempty"` // File… of each file of the frame, in order
}

// AdoptRequest hands over what a dead shim held in the directory of this one. It
// is [KindNotFound] when the process, its record or its state is gone.
type AdoptRequest struct {
	HandoverState
	// Exit is how the process ended meanwhile, when the daemon was its reaper.
	Exit *ExitStatus `json:"exit,omitempty"`
}

// ReportExitRequest tells how an adopted container ended, which only the process
// that reaped it knows before Linux 6.15.
type ReportExitRequest struct {
	ID   string     `json:"id"`
	Exit ExitStatus `json:"exit"`
}
