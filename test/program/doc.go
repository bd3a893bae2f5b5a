// Package program builds the programs of this repository that tests start: the
// shim, and the probes that run inside containers.
//
// # What it owns
//
// The command that builds a program. The caller chooses where the program is written
// and removes it.
//
// # Invariants
//
// A program is built with the flags of the Makefile, so that tests run what is shipped.
//
// # Files
//
// If $BERTH_TEST_PROGRAMS is set, nothing is built: that directory has the programs
// already, each under the path of its package. Precompiled tests (test/attack) use this
// on machines without Go.
//
// # Why not in each package of tests
//
// Three packages of tests start programs, and precompiled tests must find the programs
// in the same way in all of them.
package program
