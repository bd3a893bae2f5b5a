package shimapi

import (
	"crypto/sha256"
	"encoding/hex"
)

// Files that the daemon and the shim both name. The first four are in the shim's
// own directory, RecordName is in the directory of each pod and container.
const (
	SocketName   = "shim.sock"   // the socket that the shim serves
	IdentityName = "shim.json"   // a [HelloResponse], written once the socket is there
	LockName     = "lock"        // locked for as long as the shim lives
	LogName      = "log"         // the shim's own log
	RecordName   = "status.json" // a [Record]
)

// JournalPrefix begins the name of a journal, see [HelloResponse]; a version follows.
const JournalPrefix = "journal."

// Kinds of an [Event]: what has changed in the record that comes with it.
const (
	EventCreated     = "created"      // a container waits to be started
	EventStarted     = "started"      // a container, or the pause process of a pod, runs
	EventStdinClosed = "stdin-closed" // the container's input has ended
	EventOOM         = "oom"          // the OOM killer ended a process of the container
	EventExited      = "exited"       // a container has ended
	EventPodExited   = "pod-exited"   // the pause process of a pod has ended
	EventDeleted     = "deleted"      // a container was deleted while it was being created; the Record has only ID, Pod and Status
)

// Reasons and exit codes of a [Record] that are not the process's own, in the
// words that the kubelet knows.
const (
	// ReasonStartError and CodeStartError: the command could not be executed.
	ReasonStartError = "StartError"
	CodeStartError   = 128
	// ReasonUnknown and CodeUnknown: the exit status was lost.
	ReasonUnknown = "ContainerStatusUnknown"
	CodeUnknown   = 255
)

// ShimCgroup is the name of the cgroup that the shims of a state directory are in, where
// cgroups are not systemd's.
func ShimCgroup(stateDir string) string {
	sum := sha256.Sum256([]byte(stateDir))
	return "berth-shim-" + hex.EncodeToString(sum[:6])
}
