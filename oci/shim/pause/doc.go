// Package pause starts the process that holds the namespaces of a pod.
//
// It owns: pause.c (a static program of about 2 KiB without libc, built by
// hack/build-static.sh and embedded here), and the way it is started: one clone
// with the pod's namespace flags, from a sealed memfd that all pauses share.
//
// Invariants: a process that [Launcher.Start] returned has set up its namespaces
// (loopback, host name, sysctls) and has given up everything: an empty read-only
// root, no capabilities, no_new_privs, a seccomp filter, no open file. It ends
// on SIGTERM, SIGINT and SIGKILL, also as PID 1, and reaps what it inherits.
//
// Locks: none. Files on disk: none; the empty root directory is the caller's.
//
// Why not a container of libcontainer: three processes of 10 MiB and 15 ms for a
// program that sleeps. Why not Go: the runtime alone is a megabyte a pod. Why
// not loopback by a CNI plugin or netlink from the shim: the one is a process,
// the other a thread that must enter the namespace; here it is two ioctls.
package pause
