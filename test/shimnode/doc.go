// Package shimnode is what tests of the shim, and of its client, have in common: a state
// directory with shims, and pods and containers on it.
//
// # What it owns
//
// A [Node]: a temporary directory, a root file system of busybox, the shims that are started
// there, and a parent cgroup. When its test ends everything is removed, and whatever is left
// of it on the machine (mounts, descriptors, processes, cgroups) fails the test.
//
// # Invariants
//
//   - It uses the exported methods of package shims only, as the daemon does.
//   - A wait ends with an event or a fact of the kernel, or fails the test. Nothing sleeps
//     and hopes.
//
// # Why not in the packages that are tested
//
// oci/shim and oci/shims both need it, and test files of one package can't be imported by
// another.
package shimnode
