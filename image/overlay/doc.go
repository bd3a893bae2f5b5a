// Package overlay mounts stacks of image layers with overlayfs.
//
// # What it owns
//
// The order and options of overlay mounts, and the id-mapped clones of layers for
// pods with a user namespace. It keeps no state: a mount is found by its target. The entry
// points are [Mount] and [Unmount].
//
// # Invariants
//
//   - The number of layers is limited only by the kernel, which takes 500. From Linux 6.7
//     on layers are given one by one through the new mount API (fsconfig(2), lowerdir+).
//     Before that they are given by names relative to a directory of short symbolic links,
//     so that all names fit the one page that mount(2) has for options.
//   - A mount with an upper directory is "volatile": overlayfs does not flush the
//     upper directory when it is unmounted, so stopping a container does not wait for
//     the disk. Nothing is lost by it: after a crash of the machine all containers are
//     EXITED and are never started again, so their writable layers are not needed.
//     Overlayfs marks such an upper directory and refuses to mount it again; a second
//     mount on it removes the mark first.
//   - A mount is built detached and moved to its target as the last step: a target
//     is either not mounted or complete.
//
// # Why not X
//
//   - mount(8) or fuse-overlayfs: either needs a process per mount.
//   - a bind mount for an image of one layer: its whiteouts would be seen as devices.
//   - chown(2) of layers for pods with a user namespace: that needs a copy of the image
//     per pod.
package overlay
