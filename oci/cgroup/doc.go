// Package cgroup kills the processes of a cgroup, and tells whose it is.
//
// # What it owns
//
// [Kill] ends all processes of a cgroup and of those below it, and waits for their end.
// [Open] holds them by pidfd, for other signals and for writes below /proc. [Mark] and
// [MarkedFor] say which daemon a cgroup was made for; [Counter] and [RefusedForks] read
// counters. Making cgroups is not its business.
//
// # Invariants
//
//   - A signal reaches members of the cgroup only. A PID can be reused between the read
//     of cgroup.procs and the opening of the pidfd, so the PID must be in the list before
//     and after.
//   - The calling process is never signalled, even if it is in the cgroup.
//   - A cgroup that does not exist has no processes.
//
// # Why not X
//
// Why not cgroup.kill alone: it needs cgroup v2 of Linux 5.14 and does not wait. Why not
// freezing first, as other runtimes do: a frozen process of cgroup v1 does not die, and
// what forks meanwhile is found in the next round.
package cgroup
