// Command berth-shim is the parent of pods' processes. berthd starts it, from a
// sealed memfd, and not people.
//
// # What it owns
//
// Being executed in two roles: as the shim, and as libcontainer's init, which
// must be decided before anything else of the program runs. All the rest is
// package oci/shim's.
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
package main
