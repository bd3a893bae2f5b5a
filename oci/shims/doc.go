// Package shims is the daemon's side of the shims, the processes that run the
// containers. oci/shim is the other side, oci/shimapi the wire between the two.
//
// # What it owns
//
// A [Set] starts shims, finds the living ones again after a restart of the daemon,
// and merges their events into one channel. A [Shim] makes the calls. When a shim
// dies, the set starts its replacement: another process with the same ID and in the
// same directory, which adopts the pods and containers of the dead one.
//
// # Invariants
//
//   - The package needs no cgo.
//   - A shim is alive exactly as long as its lock is held. Every method of a dead shim
//     without a replacement returns [ErrGone]. Calls that may be repeated continue with
//     the replacement.
//   - For a handover the daemon keeps duplicates of at most four descriptors of each
//     container: its streams and its pidfd (state.go).
//   - The daemon is a subreaper, so the containers of a dead shim become its children
//     and their exit status can be collected. Unrelated orphans become its children too.
//     They are reaped by pid, only when no pidfd of ours refers to them, and never by
//     wait4(-1).
//   - The status that was collected of a container is told to the process that has adopted it at
//     once, be it adopting others yet, and to each that adopts it later.
//   - A new connection for events first receives the current record of every pod and
//     container, then each change in order. A connection that falls behind is closed and
//     made again, which starts over.
//   - New pods go only to shims of the daemon's own version. A shim of another version
//     exits with its last pod.
//   - A shim that does not answer when the set is opened is in it all the same, as one that
//     is stuck; it is asked for what it holds when it goes on.
//   - A shim that dies five times within seconds of its start, or whose program is missing, is
//     given up, which ends its containers. A replacement does not count that can't be started
//     otherwise, or can't adopt them all since the host lacks process IDs, memory, descriptors or
//     space, what was recorded can't be read now, or a step takes too long; nor does a process
//     that was killed by another than us, as for want of memory, or that Go's runtime has ended
//     for want of memory or a thread (child.go). The containers run on until one can, and so long
//     their calls fail with [ErrDelayed], in the first minute after they have waited. A new pod
//     gets another shim meanwhile.
//   - A container is lost, and ended, only when a replacement says that its process, record,
//     state or streams are gone: of the kinds [shimapi.KindNotFound] and [shimapi.KindInvalid];
//     or when its adoption has failed or hung by itself for two minutes: all others wait for it.
//   - A shim without pods, left behind by a daemon that crashed, is told to exit when the
//     set is opened. A shim that was told to exit gets no pods, and a shim that has
//     promised room for a pod is not told to exit.
//
// # Locks
//
// Set.mu guards the set, what each shim holds, and the descriptors kept for a handover.
// It is never held during a call. Set.starting is held while a shim is started, so
// that pods which arrive together share the new shim.
//
// # Files
//
// STATE/shims/ID/ with lock and log, made before the shim is started. The shim removes
// the directory when it exits; when it is found dead, this package does. The cgroup
// berth-shim-HASH, where HASH is of STATE, or with the systemd driver a scope of each shim,
// berth-shim-ID-RANDOM in a slice of their own: both lie outside the daemon's own cgroup,
// so neither the daemon's limits nor a restart of its unit reach the shims. At a shutdown of
// the node systemd stops them after the containers; see [shimapi.ContainersSlice].
//
// # Why not X
//
// Why not libcontainer in the daemon: the daemon's end would take the containers'
// stdio, exit codes and terminals along, and every exec would start a second copy of a
// large program.
package shims
