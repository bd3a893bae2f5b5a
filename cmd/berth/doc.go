// Command berth is the operator's tool beside crictl, for what the CRI has no call
// for. `berth help` lists its subcommands.
//
// # What it owns
//
// Parsing its arguments and printing answers. The answers come from a running
// berthd through package cri/operator, or from the machine through the packages
// hostcheck and explain, which work without a daemon. Texts that images, containers
// and registries wrote are printed through package printable.
//
// # Invariants
//
//   - Results go to standard output, progress and errors to standard error; the
//     exit code is 0, 1 for a failure, 2 for a wrong command line.
//   - It changes nothing on disk but files it is told to write.
//
// # Files
//
// An archive is written beside its final name and renamed when it is complete, so
// that a failed export leaves no incomplete archive.
//
// # Why not more of crictl
//
// crictl lists and runs pods on any runtime; doing it again here would be one
// more thing to keep in step.
package main
