// Probe is a static program for test images. What it does is the name it is
// started under: nonewprivs prints its effective user ID; pause waits for a
// signal to end. It owns nothing.
//
// # Why not a script
//
// An image from scratch has no shell, and a setuid bit does nothing to one.
package main
