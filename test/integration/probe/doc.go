// Command probe runs small tests of the kernel that a shell can't make, inside a
// container. Its first argument selects the test, the others are the test's
// arguments. It is linked statically, so that tests can mount it into any image.
//
// # What it owns
//
// The small tests, a function each. It keeps nothing beyond its own process.
//
// # Invariants
//
// It reports what the kernel answered and does not judge it: the test that started it
// knows what was wanted.
//
// # Why not test/registry/probe
//
// The other program is part of test images, whose digests would change with every
// small test that is added to it.
package main
