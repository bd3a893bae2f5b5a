// Package crash is the crash matrix: the daemon, its shims and the machine are
// killed at every step of every verb, and what is found afterwards is judged by
// facts of the kernel, not by the daemon's own answers.
//
// # What it owns
//
// Scenarios S18 (the client gives up and retries) and S19 (the daemon is killed
// and started again). Each test has a node of its own (test/node) with a
// witness: a pod that runs from the first kill to the last, whose container
// prints numbered lines. Whatever is killed, its ID, address and process stay
// and no line is missing.
//
// The kills are of three kinds:
//
//   - every step: the daemon is traced (ptrace), and killed when it enters the
//     n-th system call that changes anything outside of it, for each n that the
//     verb has. The kill is exact: the call is not carried out.
//     A table of these points and of what came of them is printed in the end.
//   - random: at a moment spread over the time the verb takes, from a seed that
//     is printed, so that the shim or a plugin is at work.
//   - gates: a CNI plugin or the registry holds the verb at a known point.
//
// A loss of power is tried without a kill: the disk notes each write and each flush
// (test/disk), and daemons are started on what it may have held at any moment.
//
// # Invariants
//
//   - After a restart a pod or container exists completely or not at all; the retry
//     of the interrupted call succeeds.
//   - When everything was removed, the facts (processes, mounts, links, NAT rules,
//     address leases, cgroups, files) are those from before the first call.
//   - The tests wait for events. Where the kernel has none, facts are read again
//     until they are as wanted, for a bounded time.
//
// # Why not strace, or fault points in the code
//
// strace -f would trace the plugins and the shim as well, which other tests kill, and is
// not installed everywhere. Fault points test only the steps that their author thought
// of, and would be part of the shipped program. ptrace(2) has neither fault.
package crash
