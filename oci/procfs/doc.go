// Package procfs reads what /proc tells of a process and of this boot, where berth
// has to know whether a recorded process is still that process.
//
// # What it owns
//
// The form of /proc/PID/stat and of the boot ID. A PID is used again after its
// process; a PID with its start time and the boot ID is not.
//
// # Invariants
//
//   - It reads files of the kernel only, none that a workload could have replaced.
//   - It holds nothing: each call reads anew.
//
// # Why not a library
//
// prometheus/procfs reads all 52 fields of stat and is as large as the shim's own
// code; four of them are needed.
package procfs
