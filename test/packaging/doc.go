// Package packaging tests what `make deb` and `make release` put together, and the version
// that they are named by.
//
// # What it owns
//
// Tests only: of hack/version.sh, and of the package, of its maintainer scripts and of the
// archives as they are found in bin/dist.
//
// # Invariants
//
// No test installs anything on this machine: a package is unpacked into a directory of the
// test, and its scripts run in a root of their own. The life of a package on a node with
// systemd (install, upgrade with running pods, purge) is for the guest, test/vm.
//
// # Files
//
// It reads bin/dist; without it the tests that need it are skipped and say so.
//
// # Why not a shell script
//
// What is wrong is told by name and line, as every other test's fault is.
package packaging
