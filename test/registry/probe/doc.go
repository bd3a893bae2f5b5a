// Command probe is the program of test images that have no shell. The name that
// it is started under selects what it does: nonewprivs prints its effective user
// ID, pause waits for a signal and ends. It is linked statically.
//
// # What it owns
//
// Those two tasks. It keeps nothing beyond its own process.
//
// # Invariants
//
// Its bytes are part of test images. A change of it changes their digests.
//
// # Why not a script
//
// An image from scratch has no shell, and the kernel ignores the setuid bit of a
// script.
package main
