// Package integration tests berth as its clients see it: bin/berthd through
// its CRI socket, images from a real registry on loopback, assertions against
// what the kernel reports, where it can differ from what the daemon answers.
//
// # What it owns
//
// One node (test/node) and one registry (test/registry) for all tests that
// leave the daemon alone; tests that kill it, or starve it of a network, have a
// node of their own. Tests that can't run here are skipped with the reason on
// standard output.
//
// Files named sNN_ are scenarios: what an operator must be able to do and see, a
// test each. They ask the kernel (kernel_test.go, cgroup_test.go) and bin/berth.
// They are here, not in a package of their own, because they share the node and
// what drives it; S19 is test/crash.
//
// Files named attack_ try what a hostile tenant would; test/attack lists them. Each
// asserts that the guard was the reason of the failure, and where it does no harm
// that the attack works in a container without guards.
//
// # Invariants
//
//   - A test removes what it makes; after the last one node.Close looks at the
//     whole machine and fails the package when anything is left.
//   - Waiting is for an event (a container event of the CRI, a file change). A
//     status that changed without its event is an error of its own.
//
// # Locks
//
// events.mu guards what the event stream has sent.
//
// # Why not critest alone
//
// critest tests conformance, with sleeps of seconds. These tests check what it does not
// ask for: exact values, restarts, refused requests, and that nothing is left behind.
package integration
