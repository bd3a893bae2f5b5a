// Package thread runs code on an operating system thread that is thrown away.
//
// # What it owns
//
// [Run] and [Go], for code that changes what belongs to a thread: its namespaces, its working
// directory, its capabilities. [PivotRoot] changes the root of its mount namespace.
//
// # Invariants
//
//   - The thread ends with the function, so no other goroutine ever runs on it.
//   - It is never the main thread of the process. The Go runtime does not end that thread
//     but parks it for good: it would stay in a namespace or in a directory, which therefore
//     could not be removed, and /proc/PID shows the main thread's as those of the process.
//
// # Why not runtime.LockOSThread alone
//
// It locks the goroutine to the thread on which it happens to run, and that may be the
// main thread.
package thread
