// Command probe runs small tests of the kernel that a shell can't make, inside a
// container. Its first argument selects the test, the others are the test's
// arguments. It is linked statically, so that tests can mount it into any image.
//
// # What it owns
//
// Nothing beyond its own process.
//
// # Why not test/registry/probe
//
// That program is part of test images, whose digests would change with every test
// that is added to it.
package main
