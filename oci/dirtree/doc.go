// Package dirtree measures and removes directory trees that a tenant built.
//
// It owns: the one walk that berth takes through such a tree ([Measure], what du
// would say of it) and the one way it removes one ([Remove]). A container can make
// a tree of any shape and keep changing it, so neither may cost more than the
// tree's size, whatever that shape is.
//
// Invariants:
//
//   - No recursion. At most heldTop + heldLow directories are open at a time, at any
//     depth. Of a level in between only its identity and the place in its listing
//     are kept, 24 bytes; it is opened again by ".." and compared with them. The
//     kernel thereby walks each edge twice, so that the time is linear.
//   - A directory is listed in pieces of bufferSize, never as a whole.
//   - Levels below deepest are not kept at all: Measure leaves them out (those above
//     take gigabytes by then, which shows), Remove first moves such a subtree up to the root.
//   - Nothing is followed: no symbolic link, no mount point (openat2 refuses both),
//     and no ".." that leads elsewhere than the walk came from.
//   - No file is opened, only directories: a FIFO or a device can't block or be
//     touched.
//   - Both end with their context. Remove can be repeated and goes on.
//
// Locks: none. Files on disk: none of its own.
//
// Why not os.RemoveAll and filepath.WalkDir: they recurse and hold a descriptor or
// a path of each level, so that a deep tree ends the process or can't be removed,
// and they read a directory as a whole.
//
// Why not give up the ".." and open levels by their path from the root: that is
// quadratic in the depth, and a path has an end (PATH_MAX) where a tree has none.
package dirtree
