// Package pause starts the process that holds the namespaces of a pod.
//
// # What it owns
//
// pause.c, a static program of about 2 KiB without libc, which hack/build-static.sh builds
// and this package embeds; and the way it is started: one clone with the pod's namespace
// flags, from a sealed memfd that all pause processes share.
//
// # Invariants
//
//   - A process that [Launcher.Start] has returned has set its namespaces up: loopback, host
//     name, sysctls.
//   - It has given up everything else, because containers that share its PID namespace see
//     it in /proc and can try its root, cwd, fd, exe, mem and ns there. It has a mount
//     namespace of its own with an empty read-only root and no other mount, no
//     capabilities, no_new_privs, a seccomp filter, no open file, it is not dumpable, and
//     runs as an unprivileged user unless the caller asks for another.
//   - On a host with SELinux its label is the pod's from the time it waits: it sets itself up
//     with the shim's, and then executes itself again.
//   - A process whose starter dies before it has recorded the process ends by itself. The
//     pipe that tells of it is the standard input, closed before the setup ends.
//   - It ends on SIGTERM, SIGINT and SIGKILL, also as PID 1, and reaps orphans.
//
// # Locks
//
// None. One thread of this process, the stage, starts all pause processes, one after the
// other. That costs nothing: Go allows only one fork at a time anyway.
//
// # Why not X
//
// Why not a container of libcontainer: that is three processes of 10 MiB and 15 ms for a
// program that sleeps.
//
// Why not Go: the runtime alone takes a megabyte per pod.
//
// Why not a chroot: /proc/PID/root/.. of a process leads to the whole of its mount
// namespace, whatever its root directory is.
//
// Why not clone the host's mount namespace and leave it: copying takes time in proportion
// to the mounts of the host, of which there are three per pod.
//
// Why not bring the loopback up by a CNI plugin, or by netlink from the shim: the plugin is
// a further process, and netlink needs a thread that enters the namespace. In pause it is
// two ioctls.
package pause
