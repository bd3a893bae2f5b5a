// Package overlay mounts stacks of image layers with overlayfs.
//
// # What it owns
//
// The order and options of overlay mounts, and the id-mapped clones of layers for
// pods with a user namespace. It keeps no state: a mount is found by its target. The
// entry points are [Mount] and [Unmount].
//
// # Invariants
//
//   - No limit but the kernel's 500 layers: layers are given one by one through the
//     new mount API (Linux 6.7), else by names relative to a directory of short
//     links, so that they fit the one page mount(2) has for options.
//   - A mount with an upper directory is "volatile": overlayfs does not flush the
//     upper directory when it is unmounted. A container's writable layer is worth
//     nothing after a crash of the machine (its containers are EXITED then and are
//     never started again), so nothing is lost, and stopping a container does not
//     wait for the disk. A mount made again on the same upper directory clears the
//     mark that overlayfs leaves for that case.
//   - A mount is built detached and moved to its target as the last step: a target
//     is either not mounted or complete.
//
// # Why not ...
//
//   - mount(8), fuse-overlayfs: a process per mount.
//   - bind mounts for single layers: whiteouts would show as devices.
//   - chown of layers for user namespaces: a copy of the image per pod.
package overlay
