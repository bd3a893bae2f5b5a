// Package dirtree measures, labels and removes directory trees that a tenant has built.
//
// # What it owns
//
// The walk through such a tree, which [Measure] (the usage that du would find), [Label] (which
// gives all of it one SELinux label) and [Remove] share. A container can make a tree of any
// shape and change it during the walk. Time and memory must nevertheless depend on the size
// of the tree only.
//
// # Invariants
//
//   - There is no recursion. At most heldTop + heldLow directories are open at a time, at
//     any depth. Of each level in between only its identity and the position in its listing
//     are kept, 24 bytes. Such a level is opened again by ".." and compared with these. The
//     kernel thereby walks each edge twice, so the time is linear.
//   - A directory is listed in pieces of bufferSize, never as a whole.
//   - Levels below the constant deepest are not kept at all. Measure leaves them out: the
//     directories above them already take gigabytes, so the usage is high anyway. Label leaves
//     them as they are. Remove
//     first moves such a subtree up to the root.
//   - Nothing is followed: no symbolic link and no mount point (openat2 refuses both), and
//     no ".." that leads elsewhere than the walk came from.
//   - Only directories are opened, other entries at most as a handle (O_PATH), so a FIFO or
//     a device can't block or be touched.
//   - All end with their context. Label and Remove can be repeated and then go on.
//
// # Why not os.RemoveAll and filepath.WalkDir
//
// They recurse, hold a descriptor or a path for
// each level, and read a directory as a whole. A deep tree ends the process or can't be
// removed.
//
// # Why not open levels by their path from the root
//
// That is quadratic in the depth, and a path is limited by PATH_MAX while a tree is not.
// Levels are opened by ".." instead.
//
// # Why not the walks of chcon and of github.com/opencontainers/selinux
//
// They label each file by its path, which leads out of the tree when a directory becomes a
// symbolic link meanwhile.
package dirtree
