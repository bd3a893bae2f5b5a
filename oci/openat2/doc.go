// Package openat2 opens files by openat2(2), whose flags confine the resolution of a path.
//
// # What it owns
//
// The retries of that call. With RESOLVE_IN_ROOT and RESOLVE_BENEATH the kernel gives up
// with EAGAIN when a path has ".." and something on the machine, anything, was renamed or
// mounted meanwhile.
//
// # Invariants
//
// The number of tries is bounded: a workload that does nothing but rename files could
// otherwise keep a caller for ever.
//
// # Why not filepath-securejoin
//
// Its pathrs-lite opens in a root only, and without openat2 falls back to a walk in user
// space. The callers here need other flags as well, and an error where the kernel is older
// than the 5.10 that berth asks for.
package openat2
