// Package mountns keeps a mount namespace that containers are cloned from, in place of the
// host's.
//
// # What it owns
//
// A [Template]: a mount namespace without the mounts of pods. [Template.Run] runs a function
// on a thread in a copy of it, where the sources of one container's mounts are attached.
//
// # Invariants
//
//   - A template has the file systems that starting a process needs (the root, /proc, /sys,
//     /dev, those of this program's libraries and of the directories named to [New]) and
//     nothing that is mounted below them otherwise. Nothing propagates into it or out of it,
//     so it keeps no mount of the host alive but these.
//   - A source is the same mount as its path names on the host at that moment, or a clone of
//     a part of it: it stays in the peer group of the host's mount, so propagation between a
//     container and the host works as if the container had been cloned from the host.
//   - A source is looked up without waiting for its file system. Where that can't be done,
//     there is no copy, and the caller uses the host's namespace.
//   - A clone takes part in no propagation until it is attached, so what the host mounts on a
//     shared source meanwhile never comes. A container that is to see such mounts is not for
//     a copy.
//   - A template pins what was mounted below /proc, /sys and /dev when it was made: a file
//     system that the host unmounts there lives on until the shim ends.
//   - A copy ends with its thread and the processes started there. Nothing has to be unmounted.
//
// # Why not X
//
// Why not the host's mount namespace: clone copies its table, pivot_root and the detachment of
// the old root go through it again, and on cgroup v1 libcontainer parses it. A node has some
// eight mounts for each pod, berth's and the kubelet's, so a pod would take the longer the more
// there are.
//
// Why not a namespace of the whole shim: what the kubelet mounts later must be found at its
// path, which needs propagation from the host and makes the table as long again; and hosts
// whose mounts are private have none.
package mountns
