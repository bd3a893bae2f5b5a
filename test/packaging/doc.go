// Package packaging tests what operators get: what `make deb` and `make release` put
// together, the version that they are named by, and the pages, command by command.
//
// # What it owns
//
// Tests only: of hack/version.sh, of the package, of its maintainer scripts and of the
// archives as they are found in bin/dist, and of README.md and hack/docs. The list
// `documentation` has each command of these: what is run for it and what it prints, or why
// no test runs it.
//
// # Invariants
//
// No test installs anything on this machine: a package is unpacked into a directory of the
// test, and its scripts run in a root of their own; commands of the pages run in namespaces
// of their own, on an overlay of this machine's files (hack/fresh.sh). The life of a package
// on a node with systemd (install, upgrade with running pods, purge) is for the guest, test/vm.
//
// # Files
//
// It reads bin/dist; without it the tests that need it are skipped and say so.
//
// # Why not pods of the arm64 build by QEMU's user-mode emulation
//
// QEMU's clone(2) refuses all flags for namespaces, and CLONE_PARENT, with EINVAL (its
// linux-user/syscall.c says so), and libcontainer and the shim need them. With QEMU 10.0
// berthd of arm64 gets ready, unpacks an image, starts its shim and attaches the pod to its
// network; the start of pause then fails. QEMU 7.2 lacks openat2(2) and does not unpack. So
// the programs are started, no more; a pod of arm64 takes a whole emulated machine, which is
// `make test-arm64` (hack/arm64.sh).
//
// # Why not a shell script
//
// What is wrong is told by name and line, as every other test's fault is.
package packaging
