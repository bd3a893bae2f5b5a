// Package atomicfile is the only way berth writes a record.
//
// It owns: the write discipline (temporary file in the same directory, write,
// fsync, rename, fsync of the directory) and the reading of what it wrote.
//
// Invariants: a reader sees the whole old record or the whole new one, never a
// mixture; after [Write] or [WriteBytes] returned nil the new one survives a
// power cut; a temporary that a crash left behind starts with [TempPrefix], so
// that recovery can tell and remove it.
//
// Locks: none. Two writers of one path are not harmful to the file, but the last
// one wins; each record of berth has exactly one writer, which is the real rule.
//
// Why not a database: the records of a pod live and die with its directory, an
// operator reads them with cat, and one broken record costs one pod.
package atomicfile
