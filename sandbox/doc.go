// Package sandbox is the domain: pod sandboxes and their containers.
//
// # What it owns
//
// [Manager] holds every pod sandbox and container of the node, in memory and
// as records on disk, and carries out the verbs of the CRI on them. It knows
// nothing of gRPC, registries or CNI: images and networks are two small
// interfaces ([Images], [Network]), processes are the shim's ([oci.Shims]).
//
// # Invariants
//
//   - Record first, destroy last: a pod's directory exists before anything is
//     acquired for it and goes after all is released. One idempotent destroy
//     serves a failed run, Stop and Remove, and recovery.
//   - On its way out a pod goes ready → stopping → stopped → removing, each
//     written down first, so that a daemon that is killed there never takes a half
//     for a whole: the next one finishes what was begun.
//   - Intent and fact: this package writes pod.json and container.json (what is
//     wanted), the shim writes status.json (what happened). No file has two writers.
//   - State is never stored: podState and containerState derive it from intent,
//     fact and the boot ID. State changes only in state.go.
//   - Names are functions of the ID (paths.go), so that every leak can be found
//     by listing.
//   - What is said to be in a shim is held by it: what the shim does not list at
//     the start, or after another took over, is ended (lost.go).
//   - A start waits a second, in all, for what earlier daemons left to be released; the
//     rest is done beside the node's work (settle.go), as verbs of those pods.
//   - A stop never waits for the creation of a container: it ends its context. What may
//     block in the kernel all the same, as a look at a volume, runs where it can be left
//     behind (look.go), in the shim as well.
//   - Exit is a broadcast: done of a sandbox or container is a closed channel.
//   - What a container made of its writable layer costs no call its time: it is
//     measured in the background, four layers at a time (layerusage.go), removed
//     only until the call's context ends, and by a start for seconds at most.
//
// # Locks
//
//  1. Manager.mu guards the maps, never held across I/O.
//  2. slot of a Sandbox, then slot of a Container: one verb at a time, waiting
//     obeys the context. Stop takes a container's slot never: it signals, waits
//     for done, kills.
//  3. mu of a Sandbox or Container guards intent and fact in memory; it is held
//     for assignments only, and innermost.
//  4. layerUsage.mu guards the last measure of a layer, looks.mu which paths of the host
//     are looked at, health.mu why the node may not be ready; for assignments only.
//
// Readers take none of the first three: a status is an immutable value behind an atomic
// pointer, so List, Status and Stats never wait for a verb.
//
// # Files
//
//	ROOT/pods/POD/pod.json                       intent
//	ROOT/pods/POD/status.json                    fact (shim): the pause process
//	ROOT/pods/POD/{hostname,hosts,resolv.conf}   bound into the containers
//	ROOT/pods/POD/containers/CTR/container.json  intent
//	ROOT/pods/POD/containers/CTR/status.json     fact (shim)
//	ROOT/pods/POD/containers/CTR/{upper,work}    writable layer
//	STATE/pods/POD/{net,shm}                     pinned netns, tmpfs of /dev/shm
//	STATE/containers/CTR/rootfs                  overlay mount
//	ROOT/quarantine/POD                          a pod whose record can't be read
//	ROOT/init-HASH                               the program in containers that need one of ours (init.go), made for the first
//
// # Why not a database
//
// A record is read once, at start, and written by one owner; a directory per
// pod makes the unit of damage one pod and lets an operator look with ls.
package sandbox
