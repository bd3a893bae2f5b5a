// Package shim is the server in berth-shim, the process that is the parent of the pause
// processes and containers of pods. Package oci/shims is its client, oci/shimapi the wire.
//
// # What it owns
//
// It starts and waits for every process of a pod (pause, containers, execs), and owns
// their stdio, their CRI log files, and their exit and OOM records. It kills whole
// process trees by cgroup. It is the only package that links libcontainer. The daemon may
// stop and start meanwhile.
//
// In the program berth-shim-v2 it also drives shims of containerd, for pods whose runtime is
// not the built-in one: sandbox.go (the foreign shim of a pod), task.go, taskexec.go and
// taskadopt.go (its containers), fifo.go (their streams). What it asks of a foreign shim is
// [Foreign] and what belongs to it; package shimv2 speaks to
// the shim.
//
// # Invariants
//
//   - A process is waited for by its pidfd. Nothing calls wait4(-1). While nothing happens, a pod
//     or container costs neither a thread nor a goroutine: one goroutine waits for the pidfds,
//     idle streams and OOM counters of all (sleeper.go).
//   - An exit is in status.json, durably, before it is reported: by closing a channel and
//     by an event to every watcher. One that can't be written, since the disk is full for
//     example, is reported all the same, and written as soon as it can be (recorder.saveLater).
//   - A container is cloned from a mount namespace without the mounts of pods (package mountns,
//     relocation.go), so that its start does not take the longer the more pods there are. One
//     with hooks that may use any path of the host is cloned from the host's.
//   - Output reaches the log before it reaches an attached client. A full disk does not
//     stop the container for good, and the container never waits for a client: what a
//     client has not read waits in memory up to a bound (sinkLimit), then the client is cut
//     off.
//   - The cgroup of a container goes when its end is on disk, long before the container is
//     deleted, since cAdvisor reports each cgroup that it finds; what is needed of its
//     counters is in the record by then.
//   - Every exec runs in a cgroup of its own below the container's, so a timeout or a client
//     that hangs up ends all that it started.
//   - A record is changed by its recorder only, which writes it to disk and then publishes
//     it. Watchers see the changes in order.
//   - A process whose namespaces a container joins by /proc/PID/ns is still alive after the
//     join, so the PID was not that of another process (registry.joined).
//   - What the configurations of containers have in common, such as a seccomp profile, is held
//     once for all of them and not changed by anybody. What only a creation needs is not held
//     after it (shared.go).
//   - A pod with a foreign shim has a pause process like any other, which holds the
//     namespaces. Its sandbox container, where the runtime needs one, joins them.
//   - The streams of a container of a foreign shim are fifos whose other ends are held here
//     and by the daemon, like those of pipes: the container loses no output when either dies.
//     When its foreign shim dies the container is ended, and the end recorded. So long as the
//     host lacks what that takes it counts as running, which it may be.
//   - Each call to a foreign shim is bounded, and none makes the daemon wait longer than it waits
//     for this process. A foreign shim is killed itself when it does not do a kill and either
//     answers no question after it or has the container run on, and when it has done the kill
//     and does not tell of the end. One that hangs in a start is cut off once its container has
//     ended.
//   - The cgroup of a pod's foreign shim, where it has one of its own, is made before the
//     shim's first instruction and is removed, with what runs in it, after the shim and the
//     containers have ended (shimcgroup.go).
//   - This process may die. A daemon that notices starts another in the same directory and
//     hands over the duplicates that it has kept: pipe ends, terminal masters, pidfds
//     (adopt.go). A container's output stays in its pipe until it is in the log, and a journal
//     tells whether a piece is (journal.go), so that a kill at any moment neither loses output
//     nor has any logged twice. A terminal's can only be read, and what was read and not yet
//     written is lost.
//   - The exit status of an adopted process comes from the process that reaped it, or from
//     the kernel by pidfd (process.go). If neither knows it is 255, ContainerStatusUnknown.
//
// # Locks
//
// registry.mu guards the maps of pods and containers. No other lock is taken while it is held.
// container.op is held by start, update and delete, and while an exit is recorded; kill, exec and
// attach do not take it. recorder.mu guards the record of one pod or container, and is held while
// that is written, for as long as the disk takes; recorder.status does not take it. The order is
// container.op, recorder.mu, hub.mu. A log's lock is held for a write of the log and may be held
// while the journal's is taken. A stream's lock may be held while a sink's or the sleeper's is
// taken, and no other. Under the sleeper's none is taken.
//
// # Files
//
//   - DIR/shim.sock and DIR/shim.json: the socket, and who serves it.
//   - DIR/log: what this process says, which is its stderr. The client makes it; it is emptied
//     here when it gets too large (ownlog.go).
//   - DIR/empty: the root directory of pause processes.
//   - DIR/journal.1: how far each log got, for a successor (journal.go).
//   - DIR/mounts: where a copy of that namespace has the sources of mounts; empty elsewhere.
//   - DIR/state/CTR: libcontainer's state, and cgroup.json, which names the cgroup of a
//     container whose creation is cut off before libcontainer's state is complete.
//   - status.json of each pod and container, in the directory that the daemon names.
//   - config.json, work and fifos in the bundle of a container of a foreign shim, which the
//     daemon makes and removes.
//
// All of DIR is removed when the shim exits, not when it dies.
//
// # Why not X
//
// Why not a shim per pod: a Go process with libcontainer takes 5 MiB of private memory.
//
// Why not runc: every start and every exec would execute two programs of 14 MiB and parse
// a state file.
//
// Why not pipes that the daemon copies: the logs of running containers must not depend on
// the daemon.
//
// Why not descriptors of a pod's namespaces: they would cost four per pod and have to be
// handed over to each replacement. Polling the pidfd after a join gives the same certainty.
//
// Why not a pause image, or the foreign runtime's own pause process, in place of ours: the
// network is attached before the runtime starts, in namespaces that have to be there; and
// the domain then knows one kind of pod.
//
// Why not the socket of the daemon for a foreign shim's streams, events and waits: each of them
// would be lost with the daemon.
package shim
