// Package nri tests berth with plugins of the node, by bin/berthd, its CRI socket and
// plugins on the NRI module's own stub, which are programs as an operator runs them but
// for their process.
//
// # What it owns
//
// The plugins (plugin_test.go): each notes what it is told and does what a test sets. A
// node of its own for each test that needs other settings or kills the daemon, one for all
// others. PEER=DIR, a directory with containerd, containerd-shim-runc-v2 and runc, has
// TestPeer do the same to containerd and compare what plugins are told and what specs
// become.
//
// # Invariants
//
//   - What a plugin changes is asserted in the container and in the kernel's files, not by
//     what the daemon says.
//   - A test removes what it makes; node.Close fails the package when anything is left.
//
// # Locks
//
// plugin.mu guards what a plugin has been told.
//
// # Why not the sample plugins of the NRI module
//
// They are modules of their own without releases.
package nri
