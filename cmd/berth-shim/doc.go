// Command berth-shim is the parent of pods' processes. It is started by berthd, from
// a sealed memfd, and not by people.
//
// # What it owns
//
// The choice between the two roles in which the program is executed: as the shim,
// and as libcontainer's init process of a container. Everything else is in package
// oci/shim.
//
// # Invariants
//
// The role is chosen before anything else of the program runs: the init process is
// executed with descriptors and namespaces in which nothing else may start.
//
// # Files
//
// It inherits the lock on its directory, and holds it until it exits, so
// that a daemon can tell a living shim from a dead one.
//
// # Why not a mode of berthd
//
// Only this program links libcontainer and with it C; every container and exec
// starts by executing it, so it is kept small.
//
// # Why not linked with shared libraries
//
// Each container and each exec executes this program, and forks it twice before that. Without a
// dynamic linker and its mappings a pod is up in 0.9 of the time (hack/profiles). The price is
// that a fix of libseccomp or the C library needs another build, as that of libcontainer does.
package main
