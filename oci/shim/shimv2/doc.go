// Package shimv2 drives shims of containerd, "shim v2": programs such as
// containerd-shim-runc-v2 and containerd-shim-runsc-v1 that run the containers of a pod. It
// is linked by berth-shim-v2 alone.
//
// # What it owns
//
// The start of a shim's program (program.go) and what it prints (bootstrap; start.go), the
// calls of the task API, versions 2 and 3 (task.go), the metrics of both versions of cgroups
// (usage.go), the options of a runtime (options.go), the shim's log (log.go), the events that
// it sends to TTRPC_ADDRESS (events.go), and the question what a runtime can do (info.go).
// Package oci/shim says when which of it happens.
//
// # Invariants
//
//   - A shim's program is not changed: what it gets is what containerd 2.4 gives it, by flags,
//     environment and standard input. So a shim of version 1.7 works as well.
//   - The end of a process is learned by a call that waits for it, not by an event: events are
//     lost when this process is replaced. Of events only the work of the OOM killer is taken.
//   - The death of a shim is seen by the end of its connection. What it leaves is ended by its
//     program's action "delete", and the shim itself by its PID and start time, or while those
//     are not known by a variable that all that its program starts inherits.
//   - A shim is no more trusted than a network peer: every call but a wait ends with its context,
//     also when the shim does not read; the PID and the socket that it tells are checked.
//   - What a program or a shim's log says is bounded in memory.
//   - A program whose shim has a cgroup of its own is in there before its first instruction, so
//     that nothing it uses is accounted elsewhere. It is traced until then, and not after.
//
// # Files
//
//   - BUNDLE/shim.json: where the shim of a pod serves, for the replacement of this process.
//   - BUNDLE/log: the fifo of the shim's log.
//   - DIR/ev.sock: the socket of the events, DIR being the directory of berth-shim-v2.
//
// The rest of a bundle is written by package oci/shim and by the shims themselves.
//
// # Why not containerd's client
//
// Its packages start the shim of a container by a daemon of containerd and its stores. The
// few calls that are needed are a table of names.
//
// # Why not the sandbox API
//
// The shims that have it (runc, gVisor, Kata) also make a sandbox by a container with the
// annotation of one, as they do for containerd's default sandbox controller; older ones know
// nothing else.
package shimv2
