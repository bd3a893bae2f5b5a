// Command hostileshim is a shim of containerd that does what no shim should. It does it by
// the name that it is called by, such as shim-mute.
//
// # What it owns
//
// The behaviours, see [behaviours], [kinds] and [kindOf]. The containers that some of them make are a
// process that sleeps, which ends with the shim.
//
// # Invariants
//
//   - It starts as shims do: the action "start" leaves a process in the background and prints
//     where that serves.
//   - Nothing of it outlives its own process in the background.
//
// # Why not a fake in the tests' process
//
// What is tested is also that a process is found, ended and waited for.
package main
