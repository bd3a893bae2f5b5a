// Package selinux has the tests that need a kernel with SELinux.
//
// # What it owns
//
// A node with one image and without a pod network, which is started only where SELinux
// is enabled.
//
// # Invariants
//
// Elsewhere all tests are skipped with that reason. The tests of what is denied need an
// enforcing kernel. berthd must be in a domain that may start containers: with Debian's
// policy, label bin/berthd and bin/berth-shim and set the boolean as server/THREATMODEL.md
// says; `make test-vm SUITES=selinux` does. In that policy the capabilities that a root of
// containers has otherwise need the boolean container_use_host_all_caps.
//
// # Why not in package integration
//
// Guests in which the policy can be enforced are emulated. The images and the network of
// that package take minutes there, and what SELinux does needs neither.
package selinux
