// Package procfs reads the state of a process and the ID of this boot from /proc. With
// them berth decides whether the PID in a record is still the process of that record.
//
// # What it owns
//
// The parsers of /proc/PID/stat (proc_pid_stat(5)) and of the boot ID. The kernel reuses
// the PID of a process that has ended, but a PID together with the start time of the
// process and the boot ID is unique. [Lives] and [Pidfd] are the two questions asked of it, and
// [Await] waits for the end of the process of a pidfd.
//
// # Invariants
//
//   - It reads files of the kernel only, none that a workload could have replaced.
//   - It holds nothing: each call reads anew. A pidfd is the caller's.
//   - A process counts as ended only when the kernel has said so. A daemon without descriptors
//     that took "can't tell" for "ended" would give up pods that run.
//
// # Why not prometheus/procfs
//
// It reads all 52 fields of stat, of which four are needed, and is as large as the shim's
// own code.
package procfs
