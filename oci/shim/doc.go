// Package shim is the process that is the parent of pods' pauses and containers.
//
// It owns: starting and waiting for every process of a pod (pause, containers,
// execs), their stdio and CRI log files, their exit records and OOM facts, and
// the end of whole process trees by cgroup. It is the only package that links
// libcontainer. The daemon may come and go meanwhile.
//
// Invariants:
//   - A process is waited for by its own handle, never by wait4(-1): pidfds sleep
//     in the poller, so that a container costs no thread.
//   - An exit is in status.json, durably, before anyone is told of it; it is told
//     by closing a channel and by an event to every watcher.
//   - A container's output reaches the log before it reaches any attached client. A
//     full disk does not stop the container for good, and it never waits for a client:
//     what one has not taken waits in memory up to a bound, over which it is cut off.
//   - Every exec runs in a cgroup of its own below the container's, so that a
//     timeout or a client that hangs up ends all it started.
//   - Every change of a record goes through hub.publish, which tells it in order.
//   - What a container joins by /proc/PID/ns lives after the join, so that PID was no
//     stranger's (joined.go).
//   - This process may die: a daemon that has seen it do so starts another in the
//     same directory and hands over what it was lent (adopt.go): ends of pipes,
//     masters of terminals, pidfds. What was read and not yet logged is lost, so
//     a piece is logged before the next is read.
//   - Of an adopted process the exit comes from who reaped it or from its pidfd
//     (orphan.go), never from a guess; else it is 255, ContainerStatusUnknown.
//
// Locks: Server.mu guards the maps of pods and containers only. container.op is
// held by start, update and delete, and while an exit is recorded; container.mu guards
// its record. hub.mu is innermost. Order: container.op → container.mu → hub.mu;
// Server.mu is never held with another. Kill, exec and attach take no op. A stream's
// lock may be held for a sink's, and both for nothing else.
//
// Files on disk: DIR/shim.sock, DIR/shim.json (who this is), DIR/empty (root of
// the pauses), DIR/state/CTR (libcontainer's, and cgroup.json for what is cut off
// before that is complete), all gone when the shim leaves, not when it dies;
// Dir/status.json of each pod and container, wherever the daemon says.
//
// Why not a shim per pod: a Go process with libcontainer is 5 MiB of private
// memory. Why not runc: two programs of 14 MiB are executed and a state file
// parsed for every start and every exec. Why not a pipe copied by the daemon:
// the logs of running containers must not depend on it. Why not a pod's namespaces
// held open: four files a pod, handed to each heir, for what one poll tells as well.
package shim
