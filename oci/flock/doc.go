// Package flock takes a lock file for the life of a process, or a directory for a moment.
//
// # What it owns
//
// [Try] and [Wait], which open a lock file and lock it (flock(2)), and [WaitDir] for places
// where berth must leave no file.
//
// # Invariants
//
//   - The kernel drops the lock with the last descriptor of the open file, so a process
//     that was killed leaves no stale lock. A child that inherits the descriptor keeps it.
//   - A lock file is never removed while it may be locked: two processes could then lock
//     two files of the same name.
//
// # Why not a file with a PID in it
//
// The PID may have been reused for another process.
package flock
