// Package atomicfile reads and writes berth's records: JSON files that are replaced as a
// whole. Records are written by this package only.
//
// # What it owns
//
// How a record is written (temporary file in the same directory, write, fsync, rename,
// fsync of the directory), and how it is read again.
//
// # Invariants
//
//   - A reader sees the whole old record or the whole new one, never a mixture.
//   - After [Write] or [WriteBytes] has returned nil, the new record survives a power cut.
//     A record of [WriteOrdered] survives it once any later [Write] has returned.
//   - A temporary file that a crash has left behind begins with [TempPrefix], so that
//     recovery can recognize and remove it.
//
// # Locks
//
// None. Two writers of one path do not damage the file, but the last one wins. Each record
// of berth therefore has exactly one writer.
//
// # Why not a database
//
// The records of a pod are removed with its directory, an operator reads them with cat,
// and one broken record costs one pod.
package atomicfile
