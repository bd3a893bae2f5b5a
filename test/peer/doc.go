// Package peer runs containerd beside berth, for tests and programs that do the same to both
// and compare.
//
// # What it owns
//
// The daemon of a directory that the caller names, with containerd, containerd-shim-runc-v2
// and runc in it; its configuration, which is containerd's default but for the places; and
// its directory below /var/tmp.
//
// # Invariants
//
// [Peer.Close] ends the daemon and removes the directory with what is mounted in it. Pods
// are the caller's: their shims outlive the daemon.
//
// # Why not what Debian packages
//
// Debian 12 has 1.6, which nobody would choose today. `go build` of the module proxy's
// sources makes 2.4.2 and runc 1.5.2.
package peer
