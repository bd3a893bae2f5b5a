// Package oci is the daemon's side of running a container: it writes the
// runtime-spec, and it talks to the shims that carry it out.
//
// It owns two things. [Spec] and its helpers turn what the CRI asks and what the
// host allows into a runtime-spec; they are pure, the lookups they need
// ([DetectHost], [ResolveUser], [ResolveDevices]) stand apart. [Shims] starts
// shims, finds the living ones again after a restart, calls them and merges what
// they tell into one channel of events.
//
// Invariants: the package needs no cgo. A shim is alive exactly while its lock is
// held, and every method of a dead one is [ErrShimGone]. A shim that dies while we
// live has an heir: another process with its ID and directory, to which we hand
// what we keep of its pods and containers (client_custody.go, at most four
// descriptors a container); a verb that may be repeated goes on with the heir.
// As subreaper we wait for what a dead shim leaves; a stranger is reaped by pid,
// when no pidfd of ours refers to it, never by wait4(-1). Each record a shim holds
// is told once on connecting and then at each change, in order; a connection
// that fell behind is made again and starts over. New pods go only to shims of
// this daemon's version; one of another leaves with its last pod. A shim that is
// found to hold nothing when we come leaves, so that crashes leave none behind. One
// that was asked to leave gets no pods, one that a pod was promised to is not asked.
//
// Locks: Shims.mu guards the set of shims, what each holds and what is kept of it;
// never held during a call. Shims.starting is held while a shim is started, so that pods that come
// together share it.
//
// Files on disk: S/shims/ID/{lock,log} and the directory, made here before the
// shim is started and removed by the shim when it leaves or here when it is found
// dead. The cgroup berth-shim-HASH of S, outside the daemon's own.
//
// Why not libcontainer in the daemon: its death would take stdio, exit codes and
// terminals along, and every exec would start a second copy of a big program.
package oci
