// Package program builds the programs of this repository that tests start: the
// shim, and the probes that run inside containers.
//
// # What it owns
//
// Nothing: where a program goes and when it is removed is its caller's.
//
// # Files
//
// With $BERTH_TEST_PROGRAMS set nothing is built: that directory has the
// programs already, each under the path of its package. So precompiled tests
// (test/attack) run on machines without Go.
//
// # Why not in each package of tests
//
// Three packages of tests start programs, and precompiled tests need one way in all of them.
package program
