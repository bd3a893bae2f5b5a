// Package leaks finds what pods, containers and images left on a node: `berth check
// --leaks`; and it empties a node that is broken: `berth wipe`.
//
// # What it owns
//
// [Node.Find] lists what exists by its name and belongs to no record: processes, cgroups,
// mounts, directories, what the network holds, dead shims, layers and temporary files.
// [Node.Repair] removes it, [Node.Wipe] removes all that there is. Links of pods are not
// listed: they end with their network namespace, which a mount keeps.
//
// # Invariants
//
//   - Only what is surely this node's is listed: what lies below its root and state
//     directories, or names one of them (a cgroup by its mark, see [cgroup.Mark], a shim by
//     its command line, a pause process by the cgroup of the shims). Another daemon's
//     things are never looked at, whatever they are named.
//   - It may look while the daemon works. A record is written before what it names is made
//     and removed after it: so things are listed first, records are read then, and a thing
//     counts only if it is there still.
//   - It changes nothing while a daemon runs: [Node.Lock] takes the daemon's own locks.
//     berthd removes at its start what is surely its own; this is for a berthd that does
//     not start.
//   - A mount directly below the root or state directory is the operator's.
//   - Nothing is removed through a mount, and no link is followed.
//
// # Files
//
// It writes none. It reads ROOT/pods, ROOT/images and ROOT/cni, /proc and the cgroups.
//
// # Why not a call of the daemon
//
// Leaks matter most on a node whose daemon does not start, or has been removed.
package leaks
