// Package runtimes knows the runtime handlers of the configuration, the tables
// [runtime.NAME], and what the runtime of each can do.
//
// # What it owns
//
// A [Set]: the search for the programs of foreign shims (set.go) and the question what their
// runtimes can do (question.go), of which follows what Status announces of each handler.
//
// # Invariants
//
//   - Neither the start of the daemon nor a Status waits for a foreign program, and no program
//     that is missing, hangs or says nonsense concerns another handler than its own.
//   - A question is asked of each program in parallel, a few at once, and ended when it takes
//     too long, with all that the program has started.
//   - It is asked again when the file of the program is another one than last time, by Status or
//     by a pod; when the program did not answer in time, by the next pod of the handler; and
//     when it failed for any reason, by a Status some time later, each time after twice as long.
//   - Of a handler nothing is announced but what its runtime has told and the host can do.
//
// # Locks
//
// handler.mu guards the newest question about a handler. It is not held while that is asked.
//
// # Why not a snapshotter, a network or a base spec of each handler
//
// There is one kind of snapshot, a directory of an overlayfs, which every runtime with a shim
// of containerd takes for a root filesystem. What makes other runtimes want another (a block
// device for a machine, an image that is unpacked in the guest) is a store of its own, with
// its own pulls, sizes and collection, and no option of this one; mount options differ by the
// pod (user namespaces, SELinux), not by the runtime. A second network of a node has a
// readiness of its own, for which Status has no room. What a base spec would change, NRI
// plugins change by the pod's annotations and class, checked like any other change.
//
// # Why not refuse a runtime that does not tell
//
// Shims from before containerd 2.0 do not know the question and run pods all the same.
package runtimes
