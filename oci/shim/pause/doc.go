// Package pause starts the process that holds the namespaces of a pod.
//
// It owns: pause.c (a static program of about 2 KiB without libc, built by
// hack/build-static.sh and embedded here), and the way it is started: one clone
// with the pod's namespace flags, from a sealed memfd that all pauses share.
//
// Invariants: a process that [Launcher.Start] returned has set up its namespaces
// (loopback, host name, sysctls) and has given up everything: a mount namespace
// of its own with an empty read-only root and no other mount, no capabilities,
// no_new_privs, a seccomp filter, no open file, not dumpable, and an unprivileged
// user unless the caller asks for another. Containers that share its PID namespace
// see it in /proc and can try root, cwd, fd, exe, mem and ns there: whatever it
// holds is theirs. It ends on SIGTERM, SIGINT and SIGKILL, also as PID 1, and reaps
// what it inherits.
//
// Locks: none. One thread of the process, the stage, starts all pauses, one after
// the other: the fork of a Go program is exclusive anyway. Files on disk: none.
//
// Why not a container of libcontainer: three processes of 10 MiB and 15 ms for a
// program that sleeps. Why not Go: the runtime alone is a megabyte a pod. Why
// not a chroot: /proc/PID/root/.. of a process leads to the whole of its mount
// namespace, whatever its root directory. Why not clone the host's mount namespace
// and leave it: the copy takes as long as the host has mounts, three a pod. Why
// not loopback by a CNI plugin or netlink from the shim: the one is a process,
// the other a thread that must enter the namespace; here it is two ioctls.
package pause
