// Command berth-shim-v2 is berth-shim for pods whose runtime is not the built-in one: it
// drives shims of containerd ("shim v2") by package oci/shim/shimv2. It is started by berthd.
// Called as "berth-shim-v2 info" it tells what a runtime can do.
//
// # What it owns
//
// Nothing but the choice of what is linked; the program is in package oci/shim.
//
// # Invariants
//
// It speaks the same wire as berth-shim, so that the daemon drives pods of every runtime in
// the same way.
//
// # Why not in berth-shim
//
// That program is executed for the first process of every container and every exec of the
// built-in runtime. The types of protobuf, which this one needs, would be set up each time.
package main
