// Package inflight holds the mutating calls of the CRI that run.
//
// # What it owns
//
// [Calls]: the calls that run, by name, and their end when the daemon stops. The verbs
// of package sandbox and the pulls of package cri go through one Calls.
//
// # Invariants
//
//   - A call runs on after its client gave up. A retry, which has the same name and the
//     same request, joins it and gets its result; one of the same name and another
//     request is refused with [ErrBusy].
//   - What a call changes has an end of its own. A call that may go on for ever, such as
//     a pull from a registry that hangs, has a [Call.Grace]: without a client for that
//     long it is cancelled.
//   - The work of a call runs on a goroutine of its own, whose stack begins in the verb:
//     see [Calls.Begin].
//   - A panic ends its call with [ErrPanicked], not the daemon.
//
// # Locks
//
// Calls.mu guards the map and the number of clients of each call. It is held for
// assignments only.
//
// # Why not keep results for clients that gave up
//
// A cache of results that nobody fetched needs a bound, a lifetime and a guess whether
// an answer arrived; it forgets at a restart. The records already say what exists, and
// whether it was used says whether the answer can have mattered.
package inflight
